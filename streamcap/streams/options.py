"""`StreamOptions`: options of all streams, checked once."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from streamcap.atomic import open_regular
from streamcap.captions.replay import REPLAY_EVENTS
from streamcap.errors import InputError
from streamcap.media.demand import Decode, Hwaccel
from streamcap.streams.settings import check_every
from streamcap.streams.storage.file_rotation import RotationOptions

# Chosen by the reliability curve of `mini` (docs/mini/README.md). Of its captions of held-out images 94 % lie above it,
# and 92 % of these name nothing false; of those below it 60 %.
DEFAULT_MIN_CONFIDENCE = 0.7

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Device names on Windows, whatever the extension.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

_SECONDS = (
    "subtitle_window",
    "stall_after",
    "read_timeout",
    "open_timeout",
    "min_retry_delay",
    "max_age",
    "clip_seconds",
)


def check_name(name: str) -> str:
    """Return `name` if it is valid. A stream name is part of file names, URLs and caption ids. Raises InputError."""
    if not _NAME.fullmatch(name) or name.endswith(".") or _RESERVED.fullmatch(name):
        raise InputError(
            f"stream name {name[:80]!r}: use up to 64 letters, digits, '.', '_' and '-', beginning with a letter or "
            "digit, not ending with '.'"
        )
    return name


def check_min_confidence(confidence: float) -> float:
    """Return `confidence` if it is in range. Raises InputError."""
    if not 0 <= confidence <= 1:  # false for NaN, too
        raise InputError(f"--min-confidence {confidence:g}: from 0 (hold nothing back) to 1")
    return confidence


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Times in seconds."""

    every: float = 1.0
    """Of streams that set none themselves."""
    out: Path | None = None
    """Directory of the caption files; None: no files."""
    rotation: RotationOptions = field(default_factory=RotationOptions)
    """Of `NAME.jsonl`."""
    subtitle_window: float = 3600.0
    """Time span of the rolling subtitle files."""
    replay_events: int = REPLAY_EVENTS
    """Events of a stream kept in memory for viewers that reconnect."""
    stall_after: float = 2.0
    """A live stream without a frame for this long is `stalled`."""
    read_timeout: float = 5.0
    """A source without data for this long is lost."""
    open_timeout: float = 10.0
    decode: Decode = "auto"
    """Which frames are decoded, of streams that set it not themselves."""
    hwaccel: Hwaccel = "auto"
    """Hardware decoder to use, if there is one."""
    min_retry_delay: float = 1.0
    max_retry_delay: float = 30.0
    """Pauses between reconnections grow from `min_retry_delay` to `max_retry_delay`, with jitter."""
    min_refused_delay: float = 600.0
    max_refused_delay: float = 3600.0
    """The same after a refusal that needs somebody, such as a wrong password: more attempts would lock the account."""
    max_age: float = 10.0
    """A caption that is older than this after its frame is written to the files but not sent to live viewers."""
    clip_seconds: float = 4.0
    """Length of the sliding window of a clip model."""
    min_confidence: float = DEFAULT_MIN_CONFIDENCE
    """Captions whose confidence is lower are held back; 0: none. Models that give no confidence are not affected."""
    max_streams: int = 256

    def __post_init__(self) -> None:
        try:
            check_every(self.every)
        except InputError as error:
            raise InputError(f"--{error}") from None
        for name in _SECONDS:
            if not 0 < (seconds := getattr(self, name)) < math.inf:
                raise InputError(f"--{name.replace('_', '-')} {seconds:g}: seconds, above 0")
        check_min_confidence(self.min_confidence)
        if self.replay_events < 1:
            raise InputError(f"--replay-events {self.replay_events}: at least 1")
        if self.max_retry_delay < self.min_retry_delay:
            raise InputError(
                f"max_retry_delay {self.max_retry_delay:g} is less than min_retry_delay {self.min_retry_delay:g}"
            )
        if self.out is not None:
            prepare_directory(self.out)


def prepare_directory(path: Path) -> None:
    """Create the directory `path` and check that it is writable. Raises InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test-{os.getpid()}"
        with open(probe, "wb", opener=open_regular) as file:
            file.write(b"streamcap")
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write in --out {path}: {error.strerror or error}; choose another directory"
        ) from error
