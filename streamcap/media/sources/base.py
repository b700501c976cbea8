"""The one contract of every source: open, frames until a typed end, close."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from streamcap.errors import InputError, StreamcapError
from streamcap.media.frame import Frame


class SourceEnded(StreamcapError):  # noqa: N818 - a typed end, not always an error
    """A finite source was played to its end; there is nothing to retry."""


class SourceLost(StreamcapError):  # noqa: N818 - a typed end, not always an error
    """Frames were coming and stopped: the connection broke, timed out or the peer went. Worth a reconnection."""


class SourceRefused(InputError):  # noqa: N818 - a typed end, not always an error
    """It could not be opened. The message is one redacted line."""

    def __init__(self, message: str, *, retry: bool) -> None:
        super().__init__(message)
        self.retry = retry
        """Whether it may heal by itself (a camera that is away), or not (a file that is no video)."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known once a source is open. 0 or None: not known."""

    width: int
    height: int
    frames_per_second: float
    codec: str
    live: bool
    """Whether time passes for it whether we read or not (a camera), or only as we read (a file)."""


class Source(ABC):
    """A place frames come from. One instance is one opening: a reconnection makes a new one.

    `open`, `frames` and `close` run in the source's own thread and may block, each for a bounded time. `stop` may be
    called from any thread: `frames` then returns within the read timeout.
    """

    url: str
    """Redacted."""

    @abstractmethod
    def open(self) -> SourceInfo:
        """Connect and find the video. Raises SourceRefused."""

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """Frames in order of time. Returns only after `stop`; raises SourceEnded or SourceLost."""

    @abstractmethod
    def stop(self) -> None:
        """Ask `frames` to return; idempotent, from any thread."""

    @abstractmethod
    def close(self) -> None:
        """Free what is held; idempotent, never raises."""

    @abstractmethod
    def statistics(self) -> dict[str, int]:
        """Counts of this opening, from any thread: `frames` decoded, `decode_errors`, `repaired_pts`, `epochs` opened
        after the first, `dropped` frames (each source names its drop policy)."""
