from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcap.engine.change_gate import MAX_REFERENCES, ChangeGate, ChangeGateOptions, Judgement, Verdict, content
from streamcap.errors import InputError
from streamcap.media.frame import Sample
from tests.engine.fakes import sample


def unit(*values: float) -> np.ndarray:
    row = np.array(values, np.float32)
    return row / np.linalg.norm(row)


# Cosine distances from A: NEAR_A 0.001 (the same image), MOVED 0.05 (same scene in motion), B 1 (another scene).
A, NEAR_A, MOVED, B = unit(1, 0, 0), unit(1, 0.05, 0), unit(1, 0.33, 0), unit(0, 1, 0)
TEXT = "a man opens a door"


def at(start: float, epoch: int = 0, stream: str = "door") -> Sample:
    return sample(stream, (0, 0, 0), start, epoch)


def classify(gate: ChangeGate, last_sample_at: Sample, features: np.ndarray, text: str) -> Judgement:
    return gate.classify(last_sample_at, features, gate.distance(last_sample_at, features), text)


@pytest.fixture
def gate() -> ChangeGate:
    gate = ChangeGate(ChangeGateOptions(threshold=0.02, refresh_interval=30))
    gate.commit(at(10.0), A, TEXT)
    return gate


def test_first_image_is_changed(gate: ChangeGate) -> None:
    first = at(0.0, stream="garden")
    assert gate.is_changed(gate.distance(first, A))
    assert classify(gate, first, A, "a rose").verdict is Verdict.CHANGED


def test_static_image_is_unchanged_until_refresh_or_epoch(gate: ChangeGate) -> None:
    assert gate.is_unchanged(gate.distance(at(39.9), NEAR_A))
    assert not gate.is_unchanged(gate.distance(at(40.0), NEAR_A))
    assert not gate.is_unchanged(gate.distance(at(11.0, epoch=1), NEAR_A))


def test_drift_is_measured_from_captioned_image(gate: ChangeGate) -> None:
    steps = [unit(1, 0.04 * i, 0) for i in range(1, 12)]
    still = [gate.is_unchanged(gate.distance(at(11.0), step)) for step in steps]
    assert still[0] and not still[-1]


def test_known_image_is_unchanged_when_it_returns(gate: ChangeGate) -> None:
    assert classify(gate, at(11.0), MOVED, "the man is opening a door").verdict is Verdict.UNCONFIRMED
    assert classify(gate, at(12.0), MOVED, "The man opens the door").verdict is Verdict.UNCHANGED
    assert gate.is_unchanged(gate.distance(at(13.0), MOVED))
    assert gate.is_unchanged(gate.distance(at(14.0), NEAR_A))
    gate.commit(at(15.0), B, "a dog")
    assert not gate.is_unchanged(gate.distance(at(16.0), MOVED))


def test_references_are_bounded_and_keep_the_first(gate: ChangeGate) -> None:
    for number in range(1, 3 * MAX_REFERENCES):
        classify(gate, at(10.0 + number / 10), unit(1, 0, number), TEXT)
    assert len(gate._finals["door"].references) == MAX_REFERENCES
    assert gate.distance(at(20.0), A) == pytest.approx(0.0, abs=1e-6)


def test_new_text_for_distant_image_is_changed(gate: ChangeGate) -> None:
    assert classify(gate, at(11.0), B, "a woman opens a door") == Judgement(Verdict.CHANGED)


def test_new_text_for_near_image_needs_confirmation(gate: ChangeGate) -> None:
    first = at(11.0)
    assert classify(gate, first, MOVED, "a man closes a door").verdict is Verdict.UNCONFIRMED
    judgement = classify(gate, at(12.0), MOVED, "the man closes the door")
    assert judgement.verdict is Verdict.CHANGED
    assert judgement.first is first


def test_unrepeated_text_stays_unconfirmed(gate: ChangeGate) -> None:
    for start in (11.0, 13.0, 15.0):
        assert classify(gate, at(start), MOVED, "a man closes a door").verdict is Verdict.UNCONFIRMED
        gate.mark_unchanged(at(start + 1.0))
    assert classify(gate, at(17.0), MOVED, "a man closes a door").verdict is Verdict.UNCONFIRMED
    assert classify(gate, at(18.0), MOVED, TEXT).verdict is Verdict.UNCHANGED


def test_two_different_new_texts_confirm_a_change(gate: ChangeGate) -> None:
    assert classify(gate, at(11.0), MOVED, "a cat comes").verdict is Verdict.UNCONFIRMED
    assert classify(gate, at(12.0), MOVED, "a dog comes") == Judgement(Verdict.CHANGED)


def test_confirm_timeout(gate: ChangeGate) -> None:
    classify(gate, at(11.0), MOVED, TEXT)
    assert classify(gate, at(13.1), unit(1, 0, 0.33), "a man closes a door").verdict is Verdict.CHANGED
    hasty = ChangeGate(ChangeGateOptions(threshold=0.02, confirm_timeout=0.0))
    hasty.commit(at(10.0), A, TEXT)
    assert classify(hasty, at(10.1), MOVED, "a man closes a door").verdict is Verdict.CHANGED


def test_refresh_commits_same_text(gate: ChangeGate) -> None:
    assert classify(gate, at(99.0), A, TEXT).verdict is Verdict.CHANGED


def test_zero_threshold_passes_everything() -> None:
    gate = ChangeGate(ChangeGateOptions(threshold=0.0))
    gate.commit(at(0.0), A, TEXT)
    assert gate.last_text(at(1.0)) == ""
    assert classify(gate, at(1.0), A, TEXT).verdict is Verdict.CHANGED


def test_content_words_distinguish_captions() -> None:
    assert content("a red car drives on a road") != content("a blue car drives on a road")
    assert content("a dog runs on the grass") != content("two dogs run on the grass")


PICTURES = st.sampled_from([A, NEAR_A, MOVED, unit(1, 0, 0.33), unit(1, 0.7, 0), B])
TEXTS = st.sampled_from([TEXT, "a man closes a door", "a cat", "a dog"])


@settings(deadline=None)
@given(st.lists(st.tuples(PICTURES, TEXTS), min_size=1, max_size=60), st.sampled_from([0.5, 1.0]))
def test_new_text_waits_at_most_one_sample(last_sample_at: list[tuple[np.ndarray, str]], every: float) -> None:
    """Of two consecutive decoded samples, the text of the later one is shown."""
    gate = ChangeGate(ChangeGateOptions(threshold=0.02, refresh_interval=5.0))
    shown, unsaid = "", 0
    for number, (features, text) in enumerate(last_sample_at):
        one = at(number * every)
        distance = gate.distance(one, features)
        if gate.is_unchanged(distance):
            gate.mark_unchanged(one)
            unsaid = 0
            continue
        judgement = gate.classify(one, features, distance, text)
        if judgement.verdict is Verdict.CHANGED:
            gate.commit(one, features, text, first=judgement.first)
            shown = text
        unsaid = 0 if content(text) == content(shown) else unsaid + 1
        assert unsaid <= 1
        assert judgement.first is None or one.start - judgement.first.start <= 2.0


@pytest.mark.parametrize("threshold", [-0.1, 2.0])
def test_invalid_threshold(threshold: float) -> None:
    with pytest.raises(InputError, match=r"--change-threshold .*: a cosine distance"):
        ChangeGateOptions(threshold=threshold)


@pytest.mark.parametrize("options", [{"confirm_timeout": -1.0}, {"confirm_below": 0.5}, {"refresh_interval": 0.0}])
def test_invalid_option(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=name.replace("_", "[_-]")):
        ChangeGateOptions(threshold=0.02, **options)


def test_distance_that_is_no_number_is_a_failure(gate: ChangeGate) -> None:
    gate.commit(at(0.0), A, TEXT)
    with pytest.raises(FloatingPointError, match="not a number"):
        gate.distance(at(1.0), np.full(3, np.nan, np.float32))


def test_memory_without_images_compares_words(gate: ChangeGate) -> None:
    memory = gate.take("door")
    assert memory is not None and gate.distance(at(11.0), A) == float("inf")
    elsewhere = ChangeGate(gate.options)
    memory.references = []
    elsewhere.load("door", memory)
    assert not elsewhere.is_unchanged(elsewhere.distance(at(11.0), A)), "it must be decoded"
    assert classify(elsewhere, at(11.0), A, "the man opens the door").verdict is Verdict.UNCHANGED
    assert elsewhere.is_unchanged(elsewhere.distance(at(12.0), NEAR_A))
    memory.references = []
    assert classify(elsewhere, at(13.0), A, "a dog").verdict is Verdict.CHANGED
    assert classify(elsewhere, at(40.0), A, TEXT).verdict is Verdict.CHANGED, "as after every refresh interval"
    elsewhere.load("door", None)
    assert classify(elsewhere, at(41.0), A, TEXT).verdict is Verdict.CHANGED
