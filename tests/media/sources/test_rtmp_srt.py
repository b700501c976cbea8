"""RTMP and SRT, sent by the ffmpeg program."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from streamcap.media.sources import Source, SourceLost, SourceOptions, SourceRefused, open_source
from streamcap.media.sources.libav.source import LibavSource
from streamcap.media.sources.srt import MAX_STDERR_BYTES, SrtPipe
from testbed.ports import free_port
from testbed.programs import require_program
from testbed.timeouts import TIMEOUT_FACTOR
from tests.media.fakes import write_video

pytestmark = pytest.mark.e2e

OPTIONS = SourceOptions(open_timeout=20, read_timeout=5)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", seconds=30, rate=5, size=(64, 48))


@contextmanager
def sending(film: Path, *output: str) -> Iterator[subprocess.Popen[bytes]]:
    """`ffmpeg` that waits for one receiver and then plays the film in real time."""
    ffmpeg = require_program("ffmpeg")
    run = [ffmpeg, "-nostdin", "-loglevel", "quiet", "-re", "-i", str(film), "-c", "copy", *output]
    with subprocess.Popen(run) as process:
        try:
            yield process
        finally:
            process.kill()


def opened(url: str) -> Source:
    """The opened source, once the sender listens."""
    until = time.monotonic() + TIMEOUT_FACTOR
    while True:
        source = open_source(url, options=OPTIONS)
        try:
            source.open()
            return source
        except SourceRefused:
            source.close()
            assert time.monotonic() < until
            time.sleep(0.05)


def check(source: Source, sender: subprocess.Popen[bytes]) -> None:
    frames = source.frames()
    got = [next(frames) for _ in range(5)]
    assert {frame.size for frame in got} == {(64, 48)}
    steps = [after.time - before.time for before, after in pairwise(got)]
    assert steps == pytest.approx([0.2] * 4, abs=0.002)
    sender.kill()
    with pytest.raises(SourceLost):
        for _ in frames:
            pass
    source.close()


def test_rtmp_is_read_and_sender_exit_is_a_loss(film: Path) -> None:
    url = f"rtmp://127.0.0.1:{free_port(socket.SOCK_STREAM)}/live/door"
    with sending(film, "-f", "flv", "-listen", "1", url) as sender:
        check(opened(url), sender)


def test_srt_is_read_and_sender_exit_is_a_loss(film: Path) -> None:
    address = f"srt://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    phrase = "passphrase=hunter2hunter2"
    with sending(film, "-f", "mpegts", f"{address}?mode=listener&{phrase}") as sender:
        source = opened(f"{address}?{phrase}")
        assert "hunter2" not in source.url
        assert isinstance(source, LibavSource) and source._pipe is not None
        arguments = Path(f"/proc/{source._pipe._process.pid}/cmdline").read_text()
        assert "ffmpeg" in arguments and "hunter2" not in arguments
        check(source, sender)


@pytest.mark.parametrize(("scheme", "container"), [("udp", "mpegts"), ("rtp", "rtp_mpegts")])
def test_datagrams_are_read_and_lost_sender_is_detected(film: Path, scheme: str, container: str) -> None:
    url = f"{scheme}://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    with sending(film, "-f", container, url) as sender:
        check(opened(url), sender)


def test_no_sender_times_out() -> None:
    require_program("ffmpeg")
    quick = SourceOptions(open_timeout=0.5, read_timeout=0.5)
    for scheme, kind in (("rtmp", socket.SOCK_STREAM), ("srt", socket.SOCK_DGRAM)):
        source = open_source(f"{scheme}://127.0.0.1:{free_port(kind)}/x?passphrase=hunter2hunter2", options=quick)
        with pytest.raises(SourceRefused) as refused:
            source.open()
        source.close()
        assert refused.value.retry
        assert "hunter2" not in str(refused.value)
        assert "\n" not in str(refused.value)


def test_endless_ffmpeg_stderr_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program, goes_on = tmp_path / "ffmpeg", tmp_path / "goes-on"
    complains = f"head -c {2 * MAX_STDERR_BYTES} /dev/zero >&2; echo x"
    waits = f"while [ ! -e {goes_on} ]; do sleep 0.05; done"
    program.write_text(f"#!/bin/sh\n{complains}; {waits}; echo the last word >&2; echo y\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    pipe = SrtPipe("srt://x", open_timeout=TIMEOUT_FACTOR, read_timeout=TIMEOUT_FACTOR, stopping=threading.Event())
    assert pipe.read(9) == b"x\n"
    goes_on.touch()
    assert pipe.read(9) == b"y\n"
    assert str(pipe.open_error()) == "srt://x: it could not be received: the last word"
    pipe.close()


def test_missing_ffmpeg_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SourceRefused, match="SRT needs the program ffmpeg") as refused:
        open_source("srt://127.0.0.1:9").open()
    assert not refused.value.retry
