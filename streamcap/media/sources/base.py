"""The interface of every source: open, frames until a typed end, close."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from av import Packet

from streamcap.errors import InputError, StreamcapError
from streamcap.media.demand import FrameChoice, FrameDemand
from streamcap.media.frame import Frame
from streamcap.media.timing.wait_clock import WaitClock


class SourceEnded(StreamcapError):  # noqa: N818 - a typed end, not always an error
    """A finite source was played to its end. Do not retry."""


class SourceLost(StreamcapError):  # noqa: N818 - a typed end, not always an error
    """The connection broke or timed out, or the peer left. Reconnect."""


class SourceRefused(InputError):  # noqa: N818 - a typed end, not always an error
    """The source could not be opened. The message is one redacted line."""

    def __init__(self, message: str, *, retry: bool, timed_out: bool = False) -> None:
        super().__init__(message)
        self.retry = retry
        """Whether a later attempt may succeed (a camera that is off), or not (a file that is no video)."""
        self.timed_out = timed_out
        """Whether nothing is known to be wrong but the time it took: this machine may be the cause."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known about an open source. 0 or empty: unknown."""

    width: int
    height: int
    frames_per_second: float
    codec: str
    live: bool
    """True for a camera, whose time passes on its own; False for a file."""
    audio: str = ""
    """Codec of the audio beside the video."""
    transport: str = ""
    """What carries it, such as "RTP over TCP"."""


class Source(ABC):
    """A source of frames. One instance is one connection; a reconnection creates a new one.

    `open`, `frames` and `close` run on the source's own thread and may block for a bounded time. `stop` may be
    called from any thread: `frames` then returns within the read timeout.
    """

    url: str
    """Redacted."""
    on_packet: Callable[[Packet[Any], float], None] | None = None
    """Called with each packet of the video and its arrival (monotonic seconds), if the source has packets."""
    waits: WaitClock | None = None
    """How long the source's thread waits for data; None: it cannot say."""
    catch_up: bool = False
    """Set from any thread: decode only keyframes, because frames wait to be decoded. Not every source can."""
    demand: FrameDemand | None = None
    """Which frames are wanted; None: all. Set it before `open`. A source may ignore it."""

    @abstractmethod
    def open(self) -> SourceInfo:
        """Connect and find the video. Raises SourceRefused."""

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """Frames in order of time. Returns only after `stop`; raises SourceEnded or SourceLost."""

    @abstractmethod
    def stop(self) -> None:
        """Make `frames` return. Idempotent, from any thread."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources. Idempotent, never raises."""

    def skipped_at(self) -> float | None:
        """Monotonic seconds at which the newest frame arrived that was not decoded, because nobody wants it; None: none
        was. From any thread."""
        return None

    def frame_choice(self) -> FrameChoice:
        """The frames that the source could give instead of the newest one."""
        return FrameChoice()

    @abstractmethod
    def statistics(self) -> dict[str, int]:
        """Counters of this connection, from any thread: decoded `frames`, `decode_errors`, `repaired_pts`, `epochs`
        after the first, `dropped` frames (each source names its drop policy). `skipped`: frames that were not decoded
        when they arrived, because nobody wanted them. Frames decoded only because others refer to them do not count."""
