"""Settings of one stream: what is accepted, and that a running stream takes them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from streamcap.errors import InputError
from streamcap.streams.settings import StreamSettings
from tests.streams.fakes import FakeService, frame

URL = "rtsp://cam/live"


def test_settings_survive_json() -> None:
    settings = StreamSettings(
        every=0.5,
        model="mini",
        prompt="What happens?\nIn one sentence.",
        mask=(((0, 0), (1, 0), (0.5, 1)),),
        decode="keyframes",
        min_confidence=0,
        labels={"site": "north"},
    )
    assert StreamSettings(**json.loads(json.dumps(settings.as_json()))) == settings
    assert StreamSettings().as_json() == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("every", 0.0),
        ("every", float("nan")),
        ("model", " "),
        ("model", "a\nb"),
        ("prompt", ""),
        ("prompt", "x" * 4001),
        ("prompt", "a\x1b[31m"),
        ("mask", ()),
        ("mask", (((0, 0), (1, 1)),)),
        ("mask", (((0, 0), (1, 1), (0, 1.1)),)),
        ("mask", (((0, 0), (1, 1), (0, float("nan"))),)),
        ("mask", (((0, 0), (1, 1), (0, 1, 1)),)),
        ("decode", "some"),
        ("min_confidence", 1.1),
        ("min_confidence", float("nan")),
        ("labels", {"1st": "x"}),
        ("labels", {"site": ""}),
        ("labels", {f"n{number}": "x" for number in range(17)}),
    ],
)
def test_invalid_setting_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"^{field}") as caught:
        StreamSettings(**{field: value})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


async def test_running_stream_takes_other_settings(tmp_path: Path) -> None:
    """Same camera, same numbers, same viewers; the interval holds from the newest sample on."""
    service = FakeService(tmp_path)
    door = await service.streams.add("door", URL, StreamSettings(every=60))
    await service.until(lambda: len(service.sources) == 1)
    times = itertools.count()
    for _ in range(100):
        service.sources[0].put(frame(next(times) / 25, gray=1))
    await service.until(lambda: door.source_statistics.frames == 100 and len(service.of("caption")) == 1)
    service.streams.change("door", StreamSettings(every=1, min_confidence=0.5))
    service.sources[0].put(frame(next(times) / 25, gray=2))
    await service.until(lambda: len(service.of("caption")) == 2)
    for _ in range(25):
        service.sources[0].put(frame(next(times) / 25, gray=2))
    await service.until(lambda: len(service.of("caption")) == 3)
    first, second, third = service.of("caption")
    assert (first["end"] - first["start"], second["end"] - second["start"]) == (60, 1)
    assert (second["start"], third["start"]) == pytest.approx((4.0, 5.0), abs=0.01)
    assert [m["seq"] for m in service.messages if "seq" in m] == list(range(1, len(service.messages)))
    assert (len(service.sources), service.states("door")) == (1, ["connecting", "live"])
    assert door.view().min_confidence == 0.5
    await service.streams.close()


async def test_unknown_model_is_refused_and_changes_nothing() -> None:
    service = FakeService(models=("fast", "talker"))
    settings = StreamSettings(model="talker")
    await service.streams.add("door", URL, settings)
    for call in (
        lambda: service.streams.change("door", StreamSettings(model="nobody")),
        lambda: service.streams.add("yard", URL, StreamSettings(model="nobody")),
    ):
        with pytest.raises(InputError, match="'nobody': this service has fast, talker"):
            await call()  # type: ignore[misc]
    assert (service.streams.names(), service.streams.get("door").settings) == (["door"], settings)
    await service.streams.close()
