"""SRT for builds of libav without it: the ffmpeg program receives the stream and passes it through a pipe."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
import threading
import time

from streamcap.media.sources.base import SourceRefused
from streamcap.redact import redact

_POLL_SECONDS = 0.2
_END_SECONDS = 1.0
# What the program needs to start. Tokens and keys in our environment are not passed on.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "SYSTEMROOT")
# Its error output explains a failure. On a bad connection it may print a line for every packet.
MAX_STDERR_BYTES = 65_536


class SourceTimeoutError(Exception):
    """No data within the timeout."""


class SrtPipe:
    """A running `ffmpeg` that copies the video of an `srt://` URL as MPEG-TS; libav reads it as a file.

    The URL with its passphrase goes to the program's standard input, as a script for its concat demuxer: other users
    of the machine can read the arguments of a program.

    Parameters:
        stopping: when set, reading ends.
    """

    def __init__(self, url: str, *, open_timeout: float, read_timeout: float, stopping: threading.Event) -> None:
        program = shutil.which("ffmpeg")
        where = redact(url)
        if program is None:
            raise SourceRefused(f"{where}: SRT needs the program ffmpeg, which is not installed", retry=False)
        self._where = where
        self._timeout = open_timeout
        self._read_timeout = read_timeout
        self._stopping = stopping
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        quiet = [program, "-nostats", "-hide_banner", "-loglevel", "error"]
        script = ["-protocol_whitelist", "pipe,srt", "-f", "concat", "-safe", "0"]
        receive = [*script, "-fflags", "nobuffer", "-analyzeduration", "500000", "-i", "pipe:0"]
        copy = ["-map", "0:v:0", "-c", "copy"]
        send = ["-copyts", "-muxdelay", "0", "-flush_packets", "1", "-f", "mpegts", "pipe:1"]
        self._process = subprocess.Popen(
            [*quiet, *receive, *copy, *send],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd="/",
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )

        assert self._process.stdin is not None  # noqa: S101 - opened as a pipe
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(_concat_script(url).encode())

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; empty at the end of the stream. Raises SourceTimeoutError."""
        assert self._process.stdout is not None  # noqa: S101 - it was opened as a pipe
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + self._timeout
        poll = select.poll()  # select() supports no descriptor above 1,023
        poll.register(descriptor, select.POLLIN)
        while not self._stopping.is_set():
            if poll.poll(1000 * _POLL_SECONDS):
                self._timeout = self._read_timeout
                self._truncate_stderr()
                return os.read(descriptor, size)
            if time.monotonic() > deadline:
                raise SourceTimeoutError
        return b""

    def _truncate_stderr(self) -> None:
        descriptor = self._stderr.fileno()
        if os.fstat(descriptor).st_size > MAX_STDERR_BYTES:
            # The program shares the file position, so it continues at the start.
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)

    def open_error(self) -> SourceRefused:
        """Why no data came, from the error output of ffmpeg."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1].rsplit(": ", 1)[-1] if lines else "no answer"
        return SourceRefused(f"{self._where}: it could not be received: {redact(reason)}", retry=True)

    def close(self) -> None:
        """Kill the program. Idempotent, bounded in time."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()


def _concat_script(url: str) -> str:
    """A script for ffmpeg's concat demuxer that opens `url` only."""
    quoted = url.replace("'", r"'\''")
    # Untrusted input: it must be MPEG-TS, and may open no other file or address.
    options = ("format_whitelist mpegts", "protocol_whitelist srt", "fflags nobuffer", "analyzeduration 500000")
    return "\n".join(["ffconcat version 1.0", f"file '{quoted}'", *(f"option {option}" for option in options), ""])
