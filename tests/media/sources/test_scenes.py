"""`ScenesSource`: paced, never late, with ground truth."""

from __future__ import annotations

import numpy as np
import pytest

from streamcap.media.scenes import draw
from streamcap.media.sources.scenes import ScenesSource


class Time:
    """A clock that advances only in `wait`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def scenes_source(url: str, time: Time) -> ScenesSource:
    return ScenesSource(url, monotonic=time, wall=lambda: 5e8 + time.now, wait=time.wait)


def test_scenes_follow_script_in_real_time() -> None:
    time = Time()
    source = scenes_source("scenes:?seed=3&size=96x54&rate=10&seconds=0.5", time)
    assert source.open().frames_per_second == 10
    for number, frame in enumerate(source.frames()):
        assert frame.time == pytest.approx(number / 10)
        assert frame.arrived == pytest.approx(1000 + number / 10)
        assert frame.captured_at == pytest.approx(5e8 + 1000 + number / 10)
        assert float(frame.pts * frame.time_base) == frame.time
        scene = source.script.scene_at(frame.time)
        expected = draw(scene, frame.time % 0.5, 96, 54)
        np.testing.assert_array_equal(frame.video_frame.to_ndarray(format="rgb24"), expected)
        if number == 12:
            source.stop()
    assert source.statistics()["frames"] == 13
    assert source.statistics()["dropped"] == 0
    source.close()
    source.close()


def test_slow_reader_drops_frames_and_keeps_time() -> None:
    time = Time()
    source = scenes_source("scenes:?size=64x36&rate=10", time)
    source.open()
    times = []
    for frame in source.frames():
        times.append(frame.time)
        if len(times) == 3:
            time.now += 1.0
        if len(times) == 5:
            source.stop()
    assert times == pytest.approx([0.0, 0.1, 0.2, 1.2, 1.3])
    assert source.statistics()["dropped"] == 9


def test_stop_releases_waiting_reader() -> None:
    source = ScenesSource("scenes:?size=64x36&rate=0.1")
    source.open()
    frames = source.frames()
    next(frames)
    source.stop()
    assert next(frames, None) is None
