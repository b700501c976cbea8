"""`PushSource`: bounded queue, drops the oldest frame, every wait ends."""

from __future__ import annotations

import threading

import pytest

from streamcap.media.sources import SourceEnded, SourceLost, SourceRefused
from streamcap.media.sources.push import PushSource
from testbed.timeouts import TIMEOUT_FACTOR
from tests.media.fakes import drawn


def test_queue_is_bounded_and_drops_oldest() -> None:
    source = PushSource(max_frames=3)
    for number in range(10):
        video_frame = drawn(64, 36)
        video_frame.pts = number * 3000
        assert source.offer(video_frame)
    info = source.open()
    assert (info.width, info.height, info.live) == (64, 36, True)
    frames = source.frames()
    assert [next(frames).pts for _ in range(3)] == [21_000, 24_000, 27_000]
    assert source.statistics()["dropped"] == 7


def test_frames_of_any_size_sequence() -> None:
    source = PushSource()
    for number, size in enumerate(((64, 36), (320, 180), (32, 64))):
        video_frame = drawn(*size)
        video_frame.pts = number * 3000
        source.offer(video_frame)
    source.open()
    frames = source.frames()
    assert [next(frames).size for _ in range(3)] == [(64, 36), (320, 180), (32, 64)]


def test_open_waits_for_first_frame() -> None:
    source = PushSource()
    opened: list[int] = []
    reader = threading.Thread(target=lambda: opened.append(source.open().width))
    reader.start()
    source.offer(drawn(64, 36))
    reader.join(timeout=TIMEOUT_FACTOR)
    assert opened == [64]


@pytest.mark.parametrize(("ended", "kind"), [(False, SourceLost), (True, SourceEnded)])
def test_queued_frames_are_read_after_end(ended: bool, kind: type[Exception]) -> None:
    source = PushSource("whip:door")
    source.offer(drawn(64, 36))
    source.finish("the browser went", ended=ended)
    assert not source.offer(drawn(64, 36))
    source.open()
    frames = source.frames()
    next(frames)
    with pytest.raises(kind, match="whip:door: the browser went"):
        next(frames)


def test_silence_is_a_loss() -> None:
    source = PushSource(read_timeout=0.05)
    source.offer(drawn(64, 36))
    source.open()
    frames = source.frames()
    next(frames)
    with pytest.raises(SourceLost, match=r"no frame for 0\.05 s"):
        next(frames)


@pytest.mark.parametrize("how", ["stop", "close"])
def test_stop_releases_open_and_read(how: str) -> None:
    waiting = PushSource()
    threading.Timer(0.05, getattr(waiting, how)).start()
    with pytest.raises(SourceRefused, match="stopped while waiting"):
        waiting.open()
    reading = PushSource(read_timeout=60)
    reading.offer(drawn(64, 36))
    reading.open()
    frames = reading.frames()
    next(frames)
    threading.Timer(0.05, getattr(reading, how)).start()
    assert next(frames, None) is None
    assert not reading.offer(drawn(64, 36))


def test_early_disconnect_is_a_retryable_error() -> None:
    source = PushSource()
    source.finish("the browser went")
    with pytest.raises(SourceRefused, match="the browser went") as refused:
        source.open()
    assert refused.value.retry
