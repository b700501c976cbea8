"""`StreamOptions`: everything the service is told, checked once."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from streamcap.captions.event_log import REPLAY_EVENTS
from streamcap.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Device names of one family of systems: a file of this name is no file there.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

_SECONDS = ("subtitle_window", "stall_after", "read_timeout", "open_timeout", "retry_first", "max_age", "clip_seconds")


def check_name(name: str) -> str:
    """`name`, if it can be a stream's: it becomes a file name, a path of a URL and part of caption ids."""
    if not _NAME.fullmatch(name) or name.endswith(".") or _RESERVED.fullmatch(name):
        raise InputError(
            f"stream name {name[:80]!r}: use up to 64 letters, digits, '.', '_' and '-', beginning with a letter or "
            "digit, not ending with '.'"
        )
    return name


def check_every(every: float) -> float:
    """`every` seconds between captions of one stream, if it makes sense."""
    if not 0.02 <= every <= 3600:
        raise InputError(f"every {every:g}: seconds between captions, from 0.02 to 3600")
    return every


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Times in seconds."""

    every: float = 1.0
    out: Path | None = None
    """Directory of the caption files; None: no files."""
    subtitle_window: float = 3600.0
    """How much of the past the rolling subtitle files hold."""
    replay_events: int = REPLAY_EVENTS
    """Events of a stream kept in memory for viewers who come back."""
    stall_after: float = 2.0
    """Without a frame for so long a live stream is `stalled`."""
    read_timeout: float = 5.0
    """Without data for so long a source is lost."""
    open_timeout: float = 10.0
    keyframes_only: bool = False
    """Decode keyframes alone: about an eighth of the cost, and as many frames as the camera sends keyframes."""
    retry_first: float = 1.0
    retry_most: float = 30.0
    """Pauses between reconnections grow from the one to the other, jittered."""
    max_age: float = 10.0
    """A caption that comes later than this after its frame is filed, but not pushed as live."""
    clip_seconds: float = 4.0
    """What a clip model sees at a time: the sliding window's length."""
    max_streams: int = 256

    def __post_init__(self) -> None:
        check_every(self.every)
        for field in _SECONDS:
            if not 0 < (seconds := getattr(self, field)) < math.inf:
                raise InputError(f"--{field.replace('_', '-')} {seconds:g}: seconds, above 0")
        if self.replay_events < 1:
            raise InputError(f"--replay-events {self.replay_events}: at least 1")
        if self.retry_most < self.retry_first:
            raise InputError(f"retry-most {self.retry_most:g} is less than retry-first {self.retry_first:g}")
        if self.out is not None:
            prepare_directory(self.out)


def prepare_directory(path: Path) -> None:
    """Make the directory `path` and make sure that a file can be written there. Raises InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test-{os.getpid()}"
        probe.write_bytes(b"streamcap")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write in --out {path}: {error.strerror or error}; choose another directory"
        ) from error
