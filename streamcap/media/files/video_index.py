"""Where every frame of a video file is, read from its packets: exact times without decoding."""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from streamcap.errors import InputError

log = logging.getLogger(__name__)

# libavformat's AVFMT_TS_DISCONT: the clock of a broadcast, which begins anywhere and may jump.
_BROADCAST_CLOCK = 0x0200
# AVI stores no PTS: what libavformat reports for a packet is not what the decoder puts on its frame.
_WITHOUT_PTS = frozenset({"avi"})


@dataclass(frozen=True, slots=True)
class Keyframe:
    """A packet that decoding can begin with. Stamps in units of the stream's time base."""

    pts: int
    dts: int | None


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """The frames of one video stream in order of display; a frame's place in `pts` is its ordinal."""

    time_base: Fraction
    """Seconds per unit of every stamp below."""
    origin: int
    """The stamp that is shown at 0 seconds: 0, or where a broadcast recording begins."""
    pts: tuple[int, ...]
    """Rising; never empty."""
    end: int
    """Where the last frame's display ends; above the last of `pts`."""
    keyframes: tuple[Keyframe, ...]
    """Rising in PTS. Empty where the packets' stamps cannot be trusted: then only ordinals identify a frame."""
    unbroken: bool
    """Whether every wanted frame has exactly one packet with its own PTS, so that others need not be decoded."""

    @property
    def by_pts(self) -> bool:
        """Whether a decoded frame is known by its PTS; else by its ordinal."""
        return bool(self.keyframes)

    @property
    def duration(self) -> float:
        """Seconds from the first frame's PTS to the last frame's end."""
        return float((self.end - self.pts[0]) * self.time_base)

    def seconds(self, pts: int) -> float:
        """The time of a stamp, as players show it."""
        return float((pts - self.origin) * self.time_base)

    def shown_at(self, stamp: Fraction | int) -> int:
        """The ordinal of the frame on display at `stamp` (units of the time base); the first one before that."""
        return max(0, bisect_right(self.pts, stamp) - 1)

    def keyframe_before(self, pts: int) -> Keyframe:
        """The last keyframe shown at or before `pts`; the first one where none is."""
        return self.keyframes[max(0, bisect_right(self.keyframes, pts, key=lambda keyframe: keyframe.pts) - 1)]

    def spread(self, count: int) -> list[int]:
        """Ordinals of `count` frames, evenly spread in time from the first on; each frame at most once.

        Raises InputError for a count below 1.
        """
        if count < 1:
            raise InputError(f"{count} frames: at least 1")
        step = Fraction(self.end - self.pts[0], count)
        return _distinct(self.shown_at(self.pts[0] + number * step) for number in range(count))

    def every(self, seconds: float) -> list[int]:
        """Ordinals of the frames on display every so many seconds, from the first on; each frame at most once."""
        return _distinct(self.shown_at(stamp) for stamp in self._stamps(seconds))

    def windows(self, count: int, length: int) -> list[list[int]]:
        """The file cut into `count` even pieces, `length` frames evenly spread over each, its first and last included.

        A piece with fewer frames repeats some. What a clip model is trained on: NYU's scripts take 28 frames of a
        file this way, in one piece.
        """
        if count < 1:
            raise InputError(f"{count} pieces: at least 1")
        step = Fraction(self.end - self.pts[0], count)
        return self._windows([self.pts[0] + number * step for number in range(count)], length)

    def windows_every(self, seconds: float, length: int) -> list[list[int]]:
        """The file cut into pieces of so many seconds, as `windows` does it; the last one may be shorter."""
        return self._windows(list(self._stamps(seconds)), length)

    def _windows(self, begins: list[Fraction], length: int) -> list[list[int]]:
        cuts = [*(bisect_left(self.pts, begin) for begin in begins), len(self.pts)]
        spaces = max(1, length - 1)
        # Where no frame begins within a piece the frame stands still, and the caption before it still holds.
        return [
            [first + round(Fraction((beyond - 1 - first) * place, spaces)) for place in range(length)]
            for first, beyond in pairwise(cuts)
            if beyond > first
        ]

    def _stamps(self, seconds: float) -> Iterator[Fraction]:
        if not 0 < seconds < float("inf"):
            raise InputError(f"every {seconds:g} seconds: a number above 0")
        step = Fraction(str(seconds)) / self.time_base
        for number in range(-int((self.pts[0] - self.end) // step)):
            yield self.pts[0] + number * step


def _distinct(ordinals: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(ordinals))


def index_packets(container: InputContainer, stream: VideoStream) -> VideoIndex | None:
    """The index from the packets of a container just opened, which is then at its end.

    None where the packets do not tell every frame's PTS; `index_frames` then does. Raises InputError for a video
    without packets.
    """
    stamps = _PacketStamps()
    for packet in until_damaged(container.demux(stream), "reading"):
        if packet.size and not packet.is_discard:
            stamps.add(packet)
    if not stamps.packets:
        raise InputError("the video has no frames; is the file cut short?")
    if container.format.name in _WITHOUT_PTS or not stamps.sound:
        return None
    broadcast = _has_broadcast_clock(container)
    pts = sorted(stamps.pts)
    return VideoIndex(
        time_base=_time_base(stream),
        origin=pts[0] if broadcast else 0,
        pts=tuple(pts),
        end=pts[-1] + _last_duration(pts, stamps.last_duration, stream),
        keyframes=tuple(sorted(stamps.keyframes, key=lambda keyframe: keyframe.pts)),
        # Broadcasts may be interlaced with a packet for each field; a skipped field would spoil its frame.
        unbroken=not broadcast,
    )


def index_frames(container: InputContainer, stream: VideoStream) -> VideoIndex:
    """The index from the decoded frames of a container just opened, which is then at its end.

    A frame without a PTS follows its predecessor; so does one whose PTS fell. Raises InputError where nothing can
    be decoded.
    """
    pts: list[int] = []
    duration, shift = 0, 0
    for video_frame in decode(container, stream):
        duration = video_frame.duration or _last_duration(pts, 0, stream)
        follows = pts[-1] + duration if pts else 0
        stamp = follows if video_frame.pts is None else video_frame.pts + shift
        if pts and stamp <= pts[-1]:
            shift += follows - stamp
            stamp = follows
        pts.append(stamp)
    if not pts:
        raise InputError("no frame of the video can be decoded")
    origin = pts[0] if _has_broadcast_clock(container) else 0
    return VideoIndex(_time_base(stream), origin, tuple(pts), pts[-1] + duration, (), unbroken=False)


def _has_broadcast_clock(container: InputContainer) -> bool:
    return bool(container.format.flags & _BROADCAST_CLOCK)


def _time_base(stream: VideoStream) -> Fraction:
    if stream.time_base is None:
        raise InputError("the video has no time base")
    return stream.time_base


class _PacketStamps:
    """What the packets say, and whether it can be right."""

    def __init__(self) -> None:
        self.packets = 0
        self.pts: set[int] = set()
        self.keyframes: list[Keyframe] = []
        self._last = (0, 0)
        self._in_order = True
        self._last_dts: int | None = None

    @property
    def sound(self) -> bool:
        """Every packet has a PTS of its own, the clock never went back, and decoding can begin at the first."""
        return self._in_order and len(self.pts) == self.packets and bool(self.keyframes)

    @property
    def last_duration(self) -> int:
        """Of the packet with the greatest PTS; 0: not known."""
        return self._last[1]

    def add(self, packet: av.Packet[Any]) -> None:
        self.packets += 1
        if packet.dts is not None:
            self._in_order &= self._last_dts is None or packet.dts >= self._last_dts
            self._last_dts = packet.dts
        if packet.pts is None:
            return
        self.pts.add(packet.pts)
        if len(self.pts) == 1 or packet.pts >= self._last[0]:
            self._last = packet.pts, packet.duration or 0
        if packet.is_keyframe:
            self.keyframes.append(Keyframe(packet.pts, packet.dts))


def _last_duration(pts: list[int], said: int, stream: VideoStream) -> int:
    """How long a last frame lasts, at least 1 unit: as it says, else as long as the one before, else by the rate."""
    if said > 0:
        return said
    if len(pts) > 1:
        return pts[-1] - pts[-2]
    rate = stream.guessed_rate or stream.average_rate or Fraction(25)
    return max(1, round(1 / (rate * _time_base(stream))))


def decode(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Frames in order of display; packets that cannot be decoded are passed over."""
    for packet in until_damaged(container.demux(stream), "reading"):
        yield from video_frames(packet)


def video_frames(packet: av.Packet[Any]) -> list[av.VideoFrame]:
    """What the decoder gives when it is handed `packet`; nothing for a damaged one."""
    try:
        return [video_frame for video_frame in packet.decode() if isinstance(video_frame, av.VideoFrame)]
    except av.FFmpegError as error:
        log.debug("a packet at PTS %s cannot be decoded: %s", packet.pts, error)
        return []


def until_damaged(packets: Iterator[av.Packet[Any]], doing: str) -> Iterator[av.Packet[Any]]:
    """The packets up to where the file is cut short or damaged beyond reading."""
    try:
        yield from packets
    except av.FFmpegError as error:
        log.warning("%s stopped before the end of the file: %s", doing, error.strerror)
