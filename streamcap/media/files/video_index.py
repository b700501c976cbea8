"""Exact times of all frames of a video file, from its packets, without decoding."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from streamcap.errors import InputError

log = logging.getLogger(__name__)

# AVFMT_TS_DISCONT of libavformat: a broadcast clock, which starts anywhere and may jump.
_BROADCAST_CLOCK = 0x0200
# AVI stores no PTS: libavformat reports other values for packets than the decoder for frames.
_WITHOUT_PTS = frozenset({"avi"})


@dataclass(frozen=True, slots=True)
class Keyframe:
    """A packet where decoding can start. Timestamps in units of the stream's time base."""

    pts: int
    dts: int | None


@dataclass(frozen=True, slots=True)
class VideoIndex:
    """The frames of one video stream in display order. The ordinal of a frame is its index in `pts`."""

    time_base: Fraction
    """Seconds per unit of all timestamps below."""
    origin: int
    """The timestamp at 0 seconds: 0, or the start of a broadcast recording."""
    pts: tuple[int, ...]
    """Strictly increasing; never empty."""
    end: int
    """End of the last frame; greater than the last of `pts`."""
    keyframes: tuple[Keyframe, ...]
    """Sorted by PTS. Empty if the packets' timestamps are not reliable: then only ordinals identify frames."""
    unbroken: bool
    """Whether each frame has exactly one packet with its PTS, so that unneeded frames can be skipped."""

    @property
    def by_pts(self) -> bool:
        """Whether frames are identified by PTS; else by ordinal."""
        return bool(self.keyframes)

    @property
    def duration(self) -> float:
        """Seconds from the first frame's PTS to the last frame's end."""
        return float((self.end - self.pts[0]) * self.time_base)

    def seconds(self, pts: int) -> float:
        """The time of a timestamp, as players show it."""
        return float((pts - self.origin) * self.time_base)

    def shown_at(self, stamp: Fraction | int) -> int:
        """The ordinal of the frame shown at `stamp` (units of the time base); before the first frame, 0."""
        return max(0, bisect_right(self.pts, stamp) - 1)

    def keyframe_before(self, pts: int) -> Keyframe:
        """The last keyframe at or before `pts`, else the first."""
        return self.keyframes[max(0, bisect_right(self.keyframes, pts, key=lambda keyframe: keyframe.pts) - 1)]

    def spread(self, count: int) -> list[int]:
        """Ordinals of `count` frames, evenly spaced in time from the first on, without duplicates.

        Raises InputError for a count below 1.
        """
        if count < 1:
            raise InputError(f"{count} frames: at least 1")
        return self._shown(Fraction(self.end - self.pts[0], count), count)

    def every(self, seconds: float) -> list[int]:
        """Ordinals of the frames shown every `seconds`, from the first on, without duplicates."""
        return self._shown(*self._steps(seconds))

    def _shown(self, step: Fraction, count: int) -> list[int]:
        """The distinct frames shown at `count` stamps, in at most as many steps as there are frames."""
        shown, number = [0], 1
        while number < count:
            ordinal = self.shown_at(self.pts[0] + number * step)
            if ordinal != shown[-1]:
                shown.append(ordinal)
            if ordinal + 1 == len(self.pts):
                break
            # The first stamp at which the next frame is shown.
            number = max(number + 1, math.ceil((self.pts[ordinal + 1] - self.pts[0]) / step))
        return shown

    def windows(self, count: int, length: int) -> list[list[int]]:
        """Cut the file into `count` equal pieces and take `length` evenly spaced frames of each, with first and last.

        A piece with fewer frames repeats some. Clip models are trained this way: NYU's scripts take 28 frames of a file
        in one piece.
        """
        if count < 1:
            raise InputError(f"{count} pieces: at least 1")
        return self._windows(Fraction(self.end - self.pts[0], count), count, length)

    def windows_every(self, seconds: float, length: int) -> list[list[int]]:
        """Like `windows`, with pieces of `seconds`; the last piece may be shorter."""
        return self._windows(*self._steps(seconds), length)

    def _windows(self, step: Fraction, count: int, length: int) -> list[list[int]]:
        """`count` pieces, each `step` long."""
        cuts, number = [0], 1
        while number < count and cuts[-1] < len(self.pts):
            cut = bisect_left(self.pts, self.pts[0] + number * step)
            cuts.append(cut)
            # The pieces up to the one that begins after this frame have no frame of their own.
            next_pts = self.pts[cut] if cut < len(self.pts) else self.end
            number = max(number + 1, math.floor((next_pts - self.pts[0]) / step) + 1)
        cuts.append(len(self.pts))
        spaces = max(1, length - 1)
        # A piece in which no frame starts shows the frame before it: its caption still holds.
        return [
            [first + round(Fraction((beyond - 1 - first) * index, spaces)) for index in range(length)]
            for first, beyond in pairwise(cuts)
            if beyond > first
        ]

    def _steps(self, seconds: float) -> tuple[Fraction, int]:
        """`seconds` in units of the time base, and how many of them the video has."""
        if not 0 < seconds < float("inf"):
            raise InputError(f"every {seconds:g} seconds: a number above 0")
        step = Fraction(str(seconds)) / self.time_base
        return step, -int((self.pts[0] - self.end) // step)


def index_packets(container: InputContainer, stream: VideoStream) -> VideoIndex | None:
    """Index a newly opened container by its packets; it is at its end afterwards.

    None if the packets do not have the PTS of every frame; use `index_frames` then. Raises InputError for a video
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
        # An interlaced broadcast may have a packet for each field; both are needed.
        unbroken=not broadcast,
    )


def index_frames(container: InputContainer, stream: VideoStream) -> VideoIndex:
    """Index a newly opened container by its decoded frames; it is at its end afterwards.

    A frame without a PTS, or with a decreasing one, follows its predecessor. Raises InputError if nothing can be
    decoded.
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
    """Collects the timestamps of packets and checks them."""

    def __init__(self) -> None:
        self.packets = 0
        self.pts: set[int] = set()
        self.keyframes: list[Keyframe] = []
        self._last = (0, 0)
        self._in_order = True
        self._last_dts: int | None = None

    @property
    def sound(self) -> bool:
        """Whether each packet has a distinct PTS, DTS never decreases, and there is a keyframe."""
        return self._in_order and len(self.pts) == self.packets and bool(self.keyframes)

    @property
    def last_duration(self) -> int:
        """Duration of the packet with the greatest PTS; 0: unknown."""
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


def _last_duration(pts: list[int], duration: int, stream: VideoStream) -> int:
    """Duration of the last frame, at least 1 unit: its own, else that of the one before, else from the frame rate."""
    if duration > 0:
        return duration
    if len(pts) > 1:
        return pts[-1] - pts[-2]
    rate = stream.guessed_rate or stream.average_rate or Fraction(25)
    return max(1, round(1 / (rate * _time_base(stream))))


def decode(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Frames in display order; packets that cannot be decoded are skipped."""
    for packet in until_damaged(container.demux(stream), "reading"):
        yield from video_frames(packet)


def video_frames(packet: av.Packet[Any]) -> list[av.VideoFrame]:
    """The frames that the decoder returns for `packet`; none for a damaged one."""
    try:
        return [video_frame for video_frame in packet.decode() if isinstance(video_frame, av.VideoFrame)]
    except av.FFmpegError as error:
        log.debug("a packet at PTS %s cannot be decoded: %s", packet.pts, error)
        return []


def until_damaged(packets: Iterator[av.Packet[Any]], doing: str) -> Iterator[av.Packet[Any]]:
    """The packets up to where the file is truncated or damaged."""
    try:
        yield from packets
    except av.FFmpegError as error:
        log.warning("%s stopped before the end of the file: %s", doing, error.strerror)
