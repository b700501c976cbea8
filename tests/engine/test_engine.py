from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from streamcap.engine.change_gate import ChangeGateOptions
from streamcap.engine.engine import Engine, EngineOptions
from streamcap.engine.outcome import Captioned, Encoded, Failed, Interim, Unchanged, Unconfirmed
from testbed.timeouts import TIMEOUT_FACTOR
from tests.engine.fakes import ColorModel, MadeResult, Outcomes, sample

RED, GREEN, BLUE = (250, 0, 0), (0, 250, 0), (0, 0, 250)


class Running:
    def __init__(self, **options: float) -> None:
        self.model = ColorModel()
        self.outcomes = Outcomes()
        self.engine = Engine(
            {"": self.model},
            EngineOptions(ChangeGateOptions(threshold=options.pop("threshold", 0.0)), **options),  # type: ignore[arg-type]
            self.outcomes,
        )
        self.engine.start()


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running(interim_interval=0)
    yield running
    running.model.gate.set()
    assert running.engine.stop(5)


def hold(running: Running) -> None:
    """Keep the device busy with a first sample."""
    running.model.gate.clear()
    running.engine.submit(sample("first", RED))
    assert running.model.entered.wait(TIMEOUT_FACTOR)


def test_idle_engine_forgets_a_stream() -> None:
    running, first = Running(threshold=0.02, interim_interval=0), sample("a", RED)
    running.engine.submit(first)
    running.outcomes.wait(1)
    assert running.engine.gate.last_text(first)
    running.engine.forget("a")
    deadline = time.monotonic() + TIMEOUT_FACTOR
    while running.engine.gate.last_text(first) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not running.engine.gate.last_text(first)
    assert running.engine.stop(5)


def test_waiting_streams_share_one_batch(running: Running) -> None:
    hold(running)
    for name, color in (("a", RED), ("b", GREEN), ("c", BLUE)):
        running.engine.submit(sample(name, color))
    running.model.gate.set()
    outcomes = running.outcomes.wait(4)
    assert running.model.batches == [1, 3]
    assert {o.sample.stream: o.text for o in outcomes if isinstance(o, Captioned)} == {
        "first": "color 250 0 0",
        "a": "color 250 0 0",
        "b": "color 0 250 0",
        "c": "color 0 0 250",
    }


def test_busy_device_keeps_latest_sample(running: Running) -> None:
    hold(running)
    for second in range(1, 6):
        running.engine.submit(sample("door", (second, 0, 0), float(second)))
    running.model.gate.set()
    outcomes = running.outcomes.wait(2)
    assert outcomes[1].sample.start == 5.0
    assert running.engine.statistics.superseded == {"door": 4}


def test_failed_image_does_not_fail_its_batch(running: Running) -> None:
    running.model.fail_when = lambda pixels: "bad image" if (pixels[:, 0, 0, 0] == 66).any() else None
    hold(running)
    for name, red in (("a", 1), ("b", 66), ("c", 3)):
        running.engine.submit(sample(name, (red, 0, 0)))
    running.model.gate.set()
    by_stream = {o.sample.stream: o for o in running.outcomes.wait(4)}
    assert isinstance(by_stream["a"], Captioned) and isinstance(by_stream["c"], Captioned)
    failed = by_stream["b"]
    assert isinstance(failed, Failed) and "bad image" in failed.reason
    running.engine.submit(sample("b", GREEN, 1.0))
    assert isinstance(running.outcomes.wait(5)[-1], Captioned)


def test_failures_are_logged_once_then_counted(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    running.model.fail_when = lambda pixels: "no such layer"
    for second in range(50):
        running.engine.submit(sample("door", RED, float(second)))
        running.outcomes.wait(second + 1)
    assert running.engine.statistics.failed == 50
    assert len([record for record in caplog.records if record.exc_info]) == 1 == len(caplog.records)


@pytest.mark.parametrize("what", ["embedding", "log-probability"])
def test_nan_is_a_failure_of_its_row_alone(what: str) -> None:
    running = Running(threshold=0.01, interim_interval=0)
    running.engine.submit(sample("bad", RED))
    running.outcomes.wait(1)
    model, features, decode = running.model, running.model.features, running.model.decode

    def nan_features(embeddings: np.ndarray) -> np.ndarray:
        rows = features(embeddings)
        rows[embeddings[:, 2] > 0] = np.nan
        return rows

    def nan_decode(embeddings: np.ndarray, *, streams: list[str], on_text: object = None) -> list[MadeResult]:
        return [
            MadeResult(result.text, float("nan") if row[2] > 0 else -0.5)
            for result, row in zip(decode(embeddings, streams=streams), embeddings, strict=True)
        ]

    if what == "embedding":
        model.features = nan_features  # type: ignore[method-assign]
    else:
        model.decode = nan_decode  # type: ignore[method-assign]
    hold(running)
    running.engine.submit(sample("bad", BLUE, 1.0))
    running.engine.submit(sample("good", GREEN, 1.0))
    model.gate.set()
    by_stream = {o.sample.stream: o for o in running.outcomes.wait(4)[1:]}
    failed = by_stream["bad"]
    assert isinstance(failed, Failed) and failed.reason == f"FloatingPointError: the model's {what} is not a number"
    assert isinstance(by_stream["good"], Captioned)
    assert running.engine.statistics.failed == 1
    assert running.engine.stop(5)


def test_static_scene_is_extended_without_decoding() -> None:
    running = Running(threshold=0.01, interim_interval=0)
    running.engine.submit(sample("door", RED, 0.0))
    running.outcomes.wait(1)
    for second in range(1, 4):
        running.engine.submit(sample("door", RED, float(second)))
        running.outcomes.wait(1 + second)
    running.engine.submit(sample("door", GREEN, 4.0))
    kinds = [type(o) for o in running.outcomes.wait(5)]
    assert kinds == [Captioned, Unchanged, Unchanged, Unchanged, Captioned]
    assert running.engine.statistics.decode_skipped == 3
    assert len(running.model.decoded) == 2
    assert running.engine.stop(5)


def test_moved_image_with_same_text_is_unchanged() -> None:
    running = Running(threshold=0.001, interim_interval=0)
    running.model.decode = lambda embeddings, *, streams, on_text=None: ColorModel.decode(  # type: ignore[method-assign]
        running.model, embeddings * 0, streams=streams, on_text=on_text
    )
    running.engine.submit(sample("door", RED, 0.0))
    running.outcomes.wait(1)
    running.engine.submit(sample("door", GREEN, 1.0))
    last = running.outcomes.wait(2)[-1]
    assert isinstance(last, Unchanged) and last.decoded
    assert running.engine.stop(5)


def test_zero_threshold_captions_every_sample(running: Running) -> None:
    for second in range(3):
        running.engine.submit(sample("door", RED, float(second)))
        running.outcomes.wait(second + 1)
    assert all(isinstance(o, Captioned) for o in running.outcomes.all)


def test_interim_precedes_final_of_changed_caption() -> None:
    running = Running(threshold=0.5, interim_interval=0.1)
    running.engine.submit(sample("door", RED, 0.0))
    first = running.outcomes.wait(2)
    assert [type(o) for o in first] == [Interim, Captioned]
    assert isinstance(first[0], Interim) and first[0].text == "color"
    assert running.engine.stop(5)


def test_same_text_sends_no_interim() -> None:
    running = Running(threshold=0.001, interim_interval=0.1)
    running.model.decode = lambda embeddings, *, streams, on_text=None: ColorModel.decode(  # type: ignore[method-assign]
        running.model, embeddings * 0, streams=streams, on_text=on_text
    )
    for second, color in enumerate((RED, GREEN, BLUE)):
        running.engine.submit(sample("door", color, float(second)))
        running.outcomes.wait(2 + second)
    assert [type(o) for o in running.outcomes.all] == [Interim, Captioned, Unchanged, Unchanged]
    assert running.engine.stop(5)


def test_unconfirmed_caption_waits_for_next_sample() -> None:
    # From red 250 to 20 is a cosine distance of 0.0019: changed, but less than five thresholds.
    running = Running(threshold=0.001, interim_interval=0.1)
    darker = (20, 0, 0)
    last_sample_at = [RED, darker, RED, darker, darker]
    for second, color in enumerate(last_sample_at):
        running.engine.submit(sample("door", color, float(second)))
        running.outcomes.wait(2 + second)
    kinds = [type(o) for o in running.outcomes.all]
    assert kinds == [Interim, Captioned, Unconfirmed, Unchanged, Unconfirmed, Captioned]
    last = running.outcomes.all[-1]
    assert isinstance(last, Captioned)
    assert last.text == "color 20 0 0"
    assert last.first is not None and last.first.start == 3.0
    assert running.engine.statistics.unconfirmed == 2
    assert running.engine.stop(5)


def test_latency_timestamps_are_ordered(running: Running) -> None:
    running.engine.submit(sample("door", RED))
    (outcome,) = running.outcomes.wait(1)
    assert isinstance(outcome, Captioned)
    assert outcome.times.taken <= outcome.times.encoded <= outcome.times.decoded


def test_stop_is_idempotent_and_final() -> None:
    running = Running()
    assert running.engine.stop(5)
    assert running.engine.stop(5)
    running.engine.submit(sample("door", RED))
    assert running.outcomes.all == []


class TwoModels:
    """Two models, the first held busy by a sample of stream `first`."""

    def __init__(self) -> None:
        self.models = {"mini": ColorModel(), "large": ColorModel()}
        self.outcomes = Outcomes()
        self.encoded: list[Encoded] = []
        options = EngineOptions(ChangeGateOptions(threshold=0.01), interim_interval=0)
        self.engine = Engine(self.models, options, self.outcomes, deliver_encoded=self.encoded.extend)
        self.engine.start()

    def hold(self) -> None:
        self.models["mini"].gate.clear()
        self.engine.submit(sample("first", RED, model="mini"))
        assert self.models["mini"].entered.wait(TIMEOUT_FACTOR)


@pytest.fixture
def two() -> Iterator[TwoModels]:
    two = TwoModels()
    yield two
    for model in two.models.values():
        model.gate.set()
    assert two.engine.stop(5)


def test_each_model_has_its_own_batches(two: TwoModels) -> None:
    two.hold()
    for number, (name, model, size) in enumerate((("a", "mini", 4), ("b", "large", 8), ("c", "mini", 4))):
        two.engine.submit(sample(name, (number, 99, 0), model=model, size=size))
    two.models["mini"].gate.set()
    outcomes = two.outcomes.wait(4)
    assert {o.sample.stream: o.sample.model for o in outcomes if isinstance(o, Captioned)} == {
        "first": "mini",
        "a": "mini",
        "b": "large",
        "c": "mini",
    }
    assert two.models["mini"].batches == [1, 2] and two.models["large"].batches == [1]
    statistics = two.engine.statistics
    assert {name: model.samples for name, model in statistics.models.items()} == {"mini": 3, "large": 1}
    assert statistics.samples == 4 and statistics.busy_seconds > 0


def test_stream_with_another_model_is_captioned_anew(two: TwoModels) -> None:
    kinds = []
    for second, model in enumerate(("mini", "mini", "large", "large", "mini")):
        two.engine.submit(sample("door", RED, float(second), model=model))
        kinds.append(type(two.outcomes.wait(second + 1)[-1]))
    assert kinds == [Captioned, Unchanged, Captioned, Unchanged, Captioned]


def test_sample_of_remote_model_is_only_encoded(two: TwoModels) -> None:
    two.hold()
    two.engine.submit(sample("door", GREEN, model="talker", encoder="mini"))
    two.engine.submit(sample("yard", BLUE, model="mini"))
    two.models["mini"].gate.set()
    two.outcomes.wait(2)
    assert two.models["mini"].batches == [1, 2] and two.models["mini"].decoded == [1, 1]
    (encoded,) = two.encoded
    assert encoded.sample.stream == "door"
    assert encoded.features == pytest.approx(two.models["mini"].features(np.array([GREEN]))[0])


def test_failed_decoding_does_not_repeat_what_was_delivered(two: TwoModels) -> None:
    two.engine.submit(sample("still", RED, 0.0, model="mini"))
    two.outcomes.wait(1)
    two.hold()
    decode = two.models["mini"].decode

    def failing(embeddings: np.ndarray, **arguments: Any) -> Sequence[MadeResult]:
        if len(embeddings) == 2:
            raise RuntimeError("no pairs")
        return decode(embeddings, **arguments)

    for stream, color in (("still", RED), ("a", GREEN), ("b", BLUE)):
        two.engine.submit(sample(stream, color, 1.0, model="mini"))
    two.engine.submit(sample("remote", BLUE, 1.0, model="talker", encoder="mini"))
    two.models["mini"].decode = failing  # type: ignore[method-assign]
    two.models["mini"].gate.set()
    outcomes = two.outcomes.wait(5)
    assert sorted(o.sample.stream for o in outcomes) == ["a", "b", "first", "still", "still"]
    assert len(two.encoded) == 1


def test_unknown_model_is_an_error(two: TwoModels) -> None:
    with pytest.raises(KeyError):
        two.engine.submit(sample("door", RED, model="absent"))
