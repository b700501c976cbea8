"""A session that libav has opened and that is read from the relay: kept alive, answered, ended."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from streamcap.media.sources import Source, SourceLost, SourceOptions, open_source
from streamcap.media.sources.rtsp.messages import MAX_HEAD_BYTES
from testbed.rtsp import scripted
from testbed.rtsp.scripted import AUDIO, H264, METADATA
from testbed.timeouts import TIMEOUT_FACTOR

OPTIONS = SourceOptions(open_timeout=60, read_timeout=30)
FRAMES = scripted.h264_frames()
MAX_FRAMES = round(10 * TIMEOUT_FACTOR / scripted.PAUSE)


def opened(port: int, login: str = "") -> Source:
    source = open_source(f"rtsp://{login}127.0.0.1:{port}/live", options=OPTIONS)
    source.open()
    return source


@pytest.mark.slow
@pytest.mark.parametrize("media", [H264, AUDIO + H264, METADATA + AUDIO + H264], ids=["alone", "audio", "metadata"])
def test_video_is_read_from_its_own_channel(media: str) -> None:
    with scripted.camera(scripted.description(media), lambda: itertools.cycle(FRAMES)) as port:
        source = opened(port)
        frames = source.frames()
        # All from the first on: nothing that came while the session was opened is lost.
        means = [float(next(frames).video_frame.to_ndarray(format="gray8").mean()) for _ in range(10)]
        source.close()
    assert means == sorted(means) and means[-1] - means[0] > 6
    assert source.statistics()["decode_errors"] == 0


def test_session_is_kept_alive_and_ended() -> None:
    requests: SimpleQueue[str] = SimpleQueue()
    sdp, session = scripted.description(H264), "a7;timeout=2"
    with scripted.camera(sdp, lambda: itertools.cycle(FRAMES), session=session, requests=requests) as port:
        source = opened(port)
        opening = [requests.get() for _ in range(requests.qsize())]
        for _ in itertools.islice(source.frames(), MAX_FRAMES):
            if requests.qsize() == 2:
                break
        source.close()
        after = [requests.get(timeout=TIMEOUT_FACTOR) for _ in range(3)]
    assert [request.partition(" ")[0] for request in after] == ["OPTIONS", "OPTIONS", "TEARDOWN"]
    assert all("Session: a7\r\n" in request for request in after)
    numbers = [int(found[1]) for one in opening + after if (found := re.search(r"CSeq: (\d+)", one))]
    assert numbers == sorted(set(numbers)) and len(numbers) == len(opening + after)


@pytest.mark.parametrize("while_opening", [True, False])
@pytest.mark.parametrize(
    ("end", "reason"),
    [(b"x" * MAX_HEAD_BYTES, "what it sends is not RTSP"), (b"", "the other side closed the stream")],
    ids=["garbage", "end"],
)
def test_end_of_session_is_named(end: bytes, reason: str, while_opening: bool) -> None:
    is_open = threading.Event()

    def frames() -> Iterator[scripted.Units]:
        yield from FRAMES
        if not while_opening:
            yield from itertools.takewhile(lambda _: not is_open.is_set(), itertools.cycle(FRAMES))

    with scripted.camera(scripted.description(H264), frames, end=end) as port:
        source = opened(port)
        is_open.set()
        with pytest.raises(SourceLost, match=reason):
            for _ in source.frames():
                pass
        source.close()
