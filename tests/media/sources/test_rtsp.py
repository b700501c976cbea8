"""Cameras on a real RTSP server: opening at the live edge, RTCP times, and failures."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from streamcap.media.demand import FrameDemand
from streamcap.media.frame import Frame
from streamcap.media.scenes import draw
from streamcap.media.sources import Source, SourceLost, SourceOptions, SourceRefused, open_source
from streamcap.media.sources.rtsp import source as rtsp_source
from streamcap.media.sources.rtsp.relay import RtspRelay
from testbed.programs import require_gstreamer
from testbed.rtsp.camera import Clip, RtspServer
from testbed.rtsp.proxy import always, intercepting
from testbed.rtsp.rtp_packets import nal_units
from testbed.timeouts import TIMEOUT_FACTOR

pytestmark = pytest.mark.e2e

CLIP = Clip(scenes=4, seconds=1.0, width=320, height=180, rate=15)
OPTIONS = SourceOptions(open_timeout=60, read_timeout=30)
PATIENT_FRAMES = 400
REPORTS = 3


@pytest.fixture(scope="module")
def server() -> Iterator[RtspServer]:
    require_gstreamer()
    with RtspServer(CLIP, paths=("door", "yard")) as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[RtspServer]:
    require_gstreamer()
    with RtspServer(CLIP) as running:
        yield running


def opened(url: str, options: SourceOptions = OPTIONS) -> Source:
    source = open_source(url, options=options)
    source.open()
    return source


def opened_in_the_end(url: str) -> Source:
    """Of a server that answers 503 for a moment, as GStreamer does after a client has left."""
    for _ in range(20):
        try:
            return opened(url)
        except SourceRefused as error:
            if not error.retry:
                raise
    return opened(url)


def refused(url: str, options: SourceOptions = OPTIONS) -> SourceRefused:
    source = open_source(url, options=options)
    with pytest.raises(SourceRefused) as caught:
        source.open()
    source.close()
    assert "\n" not in str(caught.value)
    return caught.value


def until_rtcp(source: Source) -> Iterator[Frame]:
    for number, frame in enumerate(source.frames()):
        if frame.captured_at_source == "rtcp":
            yield frame
        assert number < PATIENT_FRAMES, "no sender report came"


def test_frame_times_are_monotonic_in_one_epoch(server: RtspServer) -> None:
    source = open_source(server.url(), options=OPTIONS)
    info = source.open()
    assert (info.codec, info.live) == ("h264", True)
    frames = source.frames()
    got = [next(frames) for _ in range(20)]
    source.close()
    assert {frame.size for frame in got} == {(320, 180)}
    assert {frame.epoch for frame in got} == {0}
    times = np.diff([frame.time for frame in got])
    assert (times > 0).all()
    assert np.median(times) == pytest.approx(1 / CLIP.rate, abs=0.005)
    assert source.statistics()["decode_errors"] == 0


def test_sender_report_gives_capture_time(server: RtspServer) -> None:
    # A busy machine may pause the server while it writes a report, whose two times then differ.
    differences = [off_by_report(server)]
    while differences[-1] >= 6 and len(differences) < REPORTS:
        differences.append(off_by_report(server))
    assert differences[-1] < 6, differences


def off_by_report(server: RtspServer) -> float:
    """How far the frames after a report are from what the server showed when they were captured by it: the worst of
    five, mean of all levels; infinite where the report is no frame's time, and where the next scene is nearer."""
    source = opened(server.url("yard"))
    frames = until_rtcp(source)
    worst = 0.0
    for _ in range(5):
        frame = next(frames)
        number = server.frame_number(frame.captured_at)
        scene, local = CLIP.script.scene(number % CLIP.count // 15), number % 15 / 15
        assert scene.sentence == server.sentence_at(frame.captured_at)
        shown = frame.video_frame.to_ndarray(format="rgb24").astype(int)
        # The server shows frame n at exactly t0 + n / rate; the report is accurate to much less than a frame.
        off = abs((frame.captured_at - server.t0) * CLIP.rate - number)
        difference = float(np.abs(shown - draw(scene, local, 320, 180)).mean())
        other = np.abs(shown - draw(CLIP.script.scene((number // 15 + 1) % 4), local, 320, 180)).mean()
        worst = max(worst, difference if off < 0.2 and difference < other else math.inf)
    source.close()
    return worst


def test_packets_are_the_pictures_that_the_camera_encoded(server: RtspServer) -> None:
    source = opened(server.url("yard"))
    packets: list[bytes] = []
    source.on_packet = lambda packet, _arrived: packets.append(bytes(packet))
    frames = source.frames()
    while len(packets) < 2 * CLIP.count:
        next(frames)
    source.close()
    video, index = CLIP.encoded()
    data, sizes = video.read_bytes(), json.loads(index.read_text())["sizes"]
    ends = np.cumsum(sizes)
    units = [list(nal_units(data[end - size : end])) for end, size in zip(ends, sizes, strict=True)]
    got = [list(nal_units(packet)) for packet in packets]
    first = units.index(got[0])
    assert got == [units[(first + number) % CLIP.count] for number in range(len(got))]


def test_several_cameras_are_read_concurrently(server: RtspServer) -> None:
    sources = [opened(server.url(path)) for path in ("door", "yard", "door")]
    rows = [source.frames() for source in sources]
    for row in rows:
        assert [next(row).size for _ in range(5)] == [(320, 180)] * 5
    for source in sources:
        source.close()


def test_live_encoding_camera(server: RtspServer) -> None:
    source = opened(server.url("live"))
    frames = source.frames()
    assert [next(frames).size for _ in range(5)] == [(640, 360)] * 5
    source.close()


def test_stop_ends_frames(server: RtspServer) -> None:
    source = opened(server.url())
    frames = source.frames()
    next(frames)
    source.stop()
    assert next(frames, None) is None
    source.close()


@pytest.mark.parametrize(
    ("path", "message", "retry"),
    [
        ("nothing", "404: the server has no such stream", True),
        ("audio", "there is audio, but no video", False),
        ("broken", "cannot serve the stream now", True),
    ],
)
def test_unknown_path_is_refused(server: RtspServer, path: str, message: str, retry: bool) -> None:
    error = refused(server.url(path))
    assert message in str(error)
    assert error.retry is retry


@pytest.mark.parametrize("digest", [False, True])
def test_camera_with_password(digest: bool) -> None:
    require_gstreamer()
    with RtspServer(CLIP, user="viewer", password="hunter2", digest=digest) as server:
        for login in ("", "viewer:hunter3"):
            error = refused(server.url(login=login))
            assert ("does not accept this user name" if login else "asks for a user name") in str(error)
            assert "hunter3" not in str(error)
            assert not error.retry
        source = opened(server.url(login="viewer:hunter2"))
        assert "hunter2" not in source.url
        assert next(iter(source.frames())).size == (320, 180)
        source.close()


def test_camera_without_tcp_is_read_over_udp(caplog: pytest.LogCaptureFixture) -> None:
    require_gstreamer()
    with RtspServer(CLIP, udp=True) as server:
        source = opened_in_the_end(server.url())
        frames = source.frames()
        assert [next(frames).size for _ in range(5)] == [(320, 180)] * 5
        source.close()
    assert "serves no RTSP over TCP (461); reading over UDP" in caplog.text


def test_login_that_libav_does_not_know_is_named() -> None:
    challenge = (
        b'RTSP/1.0 401 Unauthorized\r\n{cseq}\r\nWWW-Authenticate: Digest realm="c", nonce="1", algorithm=SHA-512-256'
    )
    with intercepting(always(challenge + b"\r\n\r\n")) as port:
        error = refused(f"rtsp://viewer:hunter2@127.0.0.1:{port}/live")
    assert "401: it offers only Digest SHA-512-256 to log in" in str(error)
    assert not error.retry


def test_unknown_host_is_named() -> None:
    error = refused("rtsp://no-such-camera.invalid/live", SourceOptions(open_timeout=5, read_timeout=1))
    assert "the name no-such-camera.invalid is not known" in str(error)
    assert error.retry


def test_connection_refused() -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        error = refused(f"rtsp://user:hunter2@127.0.0.1:{taken.getsockname()[1]}/door")
    assert "the connection was refused" in str(error)
    assert "hunter2" not in str(error)
    assert error.retry
    assert not error.timed_out


def test_connect_timeout() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        error = refused(
            f"rtsp://127.0.0.1:{silent.getsockname()[1]}/door", SourceOptions(open_timeout=0.5, read_timeout=0.5)
        )
    assert "takes connections, but no video that could be opened came within 0.5 s" in str(error)
    assert error.retry
    assert error.timed_out


def test_non_rtsp_server_is_refused() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        other.settimeout(TIMEOUT_FACTOR)
        source = open_source(f"rtsp://127.0.0.1:{other.getsockname()[1]}/door", options=OPTIONS)

        def greet() -> None:
            peer, _ = other.accept()
            peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            peer.close()

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(SourceRefused):
            source.open()
        thread.join()


def test_killed_camera_is_lost_and_can_reopen(own_server: RtspServer) -> None:
    source = opened(own_server.url())
    frames = source.frames()
    next(frames)
    own_server.kill()
    with pytest.raises(SourceLost):
        for _ in frames:
            pass
    source.close()
    assert refused(own_server.url()).retry
    own_server.start()
    again = opened(own_server.url())
    assert next(iter(again.frames())).epoch == 0
    again.close()


def test_frozen_camera_times_out(own_server: RtspServer) -> None:
    source = opened(own_server.url(), SourceOptions(open_timeout=60, read_timeout=2))
    frames = source.frames()
    next(frames)
    own_server.pause()
    arrivals = []
    with pytest.raises(SourceLost, match=r"no frame came for 2 s|closed"):
        arrivals.extend(frame.arrived for frame in frames)
    # libav returns a last frame at its timeout. It counts from the arrival of its bytes, and reading ends.
    assert time.monotonic() - arrivals[-1] == pytest.approx(2.0, abs=1.0)
    source.close()
    own_server.resume()
    again = opened(own_server.url())
    frame = next(iter(again.frames()))
    assert frame.size == (320, 180)
    again.close()


def test_damaged_frames_are_counted() -> None:
    require_gstreamer()
    with RtspServer(CLIP, damage=0.3) as server:
        source = opened(server.url())
        for number, _ in enumerate(source.frames()):
            if number >= 30 and source.statistics()["decode_errors"]:
                break
            assert number < PATIENT_FRAMES
        source.close()


def test_camera_is_decoded_by_keyframes_alone_until_watched() -> None:
    require_gstreamer()
    with RtspServer(CLIP) as server:
        source = open_source(server.url(), options=OPTIONS)
        # Its keyframes come every half a second.
        source.demand = FrameDemand(every=1.0, wait=1.0)
        source.open()
        frames = source.frames()
        first = next(frames)
        times = [first.time]
        while source.statistics()["skipped"] < 30:
            frame = next(frames)
            times.append(frame.time)
            source.demand.wait = 1.0
        assert frame.video_frame.key_frame and 0 < frame.spacing <= 0.6
        assert source.skipped_at() is not None
        source.demand.viewers = 1
        watched = [next(frames) for _ in range(8)]
        steps = np.diff([frame.time for frame in watched])
        assert np.median(steps) == pytest.approx(1 / CLIP.rate, abs=0.02)
        assert watched[0].time - times[-1] < 1.0
        source.close()
    assert source.statistics()["decode_errors"] == 0


def test_unwanted_pictures_are_read_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    require_gstreamer()
    monkeypatch.setattr(rtsp_source, "IDLE_READ_SECONDS", 0.4)
    reads: list[float] = []
    read = RtspRelay.read
    monkeypatch.setattr(RtspRelay, "read", lambda relay, timeout: reads.append(timeout) or read(relay, timeout))
    with RtspServer(CLIP) as server:
        source = open_source(server.url(), options=OPTIONS)
        source.demand = FrameDemand(every=1.0, wait=1.0)
        source.open()
        frames = source.frames()
        next(frames)
        while source.statistics()["skipped"] < 2 * CLIP.rate:
            next(frames)
            source.demand.wait = 1.0
        before, skipped = len(reads), source.statistics()["skipped"]
        late = [next(frames) for _ in range(5)]
        source.close()
    assert len(reads) - before < 0.6 * (source.statistics()["skipped"] - skipped)
    # A picture is read no later for it.
    delays = [frame.arrived + time.time() - time.monotonic() - frame.captured_at for frame in late]
    assert min(delays) < 1 / CLIP.rate


def test_a_frame_is_there_before_the_next_begins(server: RtspServer) -> None:
    source = opened(server.url("yard"))
    frames = until_rtcp(source)
    delays = []
    for _ in range(PATIENT_FRAMES):
        frame = next(frames)
        delays.append(frame.arrived + time.time() - time.monotonic() - frame.captured_at)
        if min(delays) < 0.5 / CLIP.rate:
            break
    source.close()
    assert min(delays) < 0.5 / CLIP.rate
