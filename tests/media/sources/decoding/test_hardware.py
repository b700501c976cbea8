"""Hardware decoding: where there is none, video is decoded in software, and the log says so once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from av.codec.hwaccel import hwdevices_available

from streamcap.media.demand import Hwaccel
from streamcap.media.sources import SourceEnded, SourceOptions, open_source
from streamcap.media.sources.decoding import hardware
from tests.media.fakes import write_video


@pytest.fixture(autouse=True)
def unknown() -> Iterator[None]:
    hardware._find.cache_clear()
    yield
    hardware._find.cache_clear()


@pytest.mark.parametrize("name", ["auto", "none", "cuda", "vaapi", "vulkan"])
def test_any_choice_decodes_here(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: Hwaccel) -> None:
    caplog.set_level(logging.INFO)
    path = write_video(tmp_path / "film.mp4")
    for _ in range(2):
        source = open_source(str(path), options=SourceOptions(realtime=False, hwaccel=name))
        source.open()
        frames = []
        with pytest.raises(SourceEnded):
            frames.extend(frame.size for frame in source.frames())
        source.close()
        assert frames == [(160, 96)] * 10
    warnings = [record for record in caplog.records if "hwaccel" in record.message]
    assert len(warnings) == (name != "none")


def test_device_that_does_not_work_is_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_fault", lambda kind: f"no {kind} here")
    name: Hwaccel = "cuda" if "cuda" in hwdevices_available() else "vaapi"
    assert hardware.open_hwaccel(name) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "decoded in software" in record.message and name in record.message
