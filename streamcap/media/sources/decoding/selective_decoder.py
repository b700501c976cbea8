"""`SelectiveDecoder`: decodes the packets that `DecodePolicy` chooses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import av
from av import Packet, VideoFrame
from av.video.frame import PictureType
from av.video.stream import VideoStream

from streamcap.media.cpu_slots import cpu_slot
from streamcap.media.sources.decoding.decode_policy import Action, DecodePolicy

_DRAINED = 4
MAX_FRUITLESS = 3
"""After so many keyframes in a row that give no picture by themselves, everything is decoded."""
MAX_HELD_PACKETS = 1_000
MAX_HELD_BYTES = 16_000_000
"""Packets held in memory. When full, all are decoded."""


class SelectiveDecoder:
    """Every frame that it returns is complete: what it refers to was decoded before.

    Parameters:
        on_error: called for each packet that cannot be decoded.
    """

    def __init__(self, policy: DecodePolicy, on_error: Callable[[Packet[VideoStream], av.FFmpegError], None]) -> None:
        self.skipped = 0
        """Packets that were not decoded when they arrived."""
        self._policy = policy
        self._on_error = on_error
        self._held: list[Packet[VideoStream]] = []
        self._held_bytes = 0
        self._fruitless = 0
        self._drained_pts: deque[int | None] = deque(maxlen=_DRAINED)
        """Timestamps of keyframes that were drained from the decoder. If they are decoded again, they are not new."""

    def decode(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """The frames that `packet` completes. Of those that were held up to now, only the newest."""
        if not packet.size:
            self._forget()
            return self._decoded(packet)
        if packet.is_keyframe:
            self._forget()
        action = self._policy.choose(packet.is_keyframe, _seconds(packet))
        if action is Action.PREPARE:
            frames = self._decoded(packet)
            if not frames:
                self._policy.delays()
            self._check_keyframe(packet, frames)
            return []
        if action is not Action.DECODE:
            self.skipped += 1
            if action is Action.HOLD:
                self._hold(packet)
                if len(self._held) > MAX_HELD_PACKETS or self._held_bytes > MAX_HELD_BYTES:
                    self._policy.caught_up()
                    return self._catch_up()
            return []
        earlier = self._catch_up()
        out = self._decoded(packet)
        if packet.is_keyframe:
            if not out and self._policy.alone:
                out = self._drained(packet)
                self._policy.delays()
                self._fruitless = 0 if out else self._fruitless + 1
                if self._fruitless == MAX_FRUITLESS:
                    self._policy.distrust()
            self._check_keyframe(packet, out)
        return out or earlier

    def _check_keyframe(self, packet: Packet[VideoStream], frames: Sequence[VideoFrame]) -> None:
        if packet.is_keyframe and any(frame.pts == packet.pts and not _is_intra(frame) for frame in frames):
            self._policy.distrust()

    def _hold(self, packet: Packet[VideoStream]) -> None:
        self._held.append(packet)
        self._held_bytes += packet.size

    def _forget(self) -> None:
        self._held.clear()
        self._held_bytes = 0

    def _catch_up(self) -> list[VideoFrame]:
        """Decode what was held. Returns the newest frame, if it was not returned before."""
        frames = [frame for packet in self._held for frame in self._decoded(packet)]
        self._forget()
        return frames[-1:]

    def _drained(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        """The frame of a keyframe that the decoder holds back to reorder it. Packets after it need it decoded again."""
        context = packet.stream.codec_context
        try:
            with cpu_slot:
                frames = context.decode(None)
            context.flush_buffers()
        except av.FFmpegError as error:
            self._on_error(packet, error)
            return []
        out = self._new(frames)
        for frame in out:
            frame.time_base = frame.time_base or packet.time_base
        self._hold(packet)
        self._drained_pts.append(packet.pts)
        return out

    def _decoded(self, packet: Packet[VideoStream]) -> list[VideoFrame]:
        try:
            if packet.is_keyframe and self._policy.after_gap:
                # What the decoder still holds back is older than what was skipped.
                packet.stream.codec_context.flush_buffers()
            with cpu_slot:
                frames = packet.decode()
            return self._new(frames)
        except av.FFmpegError as error:
            self._on_error(packet, error)
            return []

    def _new(self, frames: Sequence[object]) -> list[VideoFrame]:
        known = self._drained_pts
        return [f for f in frames if isinstance(f, VideoFrame) and (f.pts is None or f.pts not in known)]


def _seconds(packet: Packet[VideoStream]) -> float | None:
    pts, base = packet.pts, packet.time_base
    return None if pts is None or base is None else pts * base.numerator / base.denominator


def _is_intra(frame: VideoFrame) -> bool:
    """Whether it refers to no other picture. Cameras that refresh pictures bit by bit mark others as keyframes."""
    return frame.pict_type in (PictureType.I, PictureType.SI, PictureType.NONE)
