"""`VideoFile`: selected frames of a video file with exact times."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from streamcap.errors import InputError
from streamcap.media.containers import ACCEPTED, FILE_OPTIONS, file_format, why_unreadable
from streamcap.media.files.video_index import (
    Keyframe,
    VideoIndex,
    decode,
    index_frames,
    index_packets,
    until_damaged,
    video_frames,
)
from streamcap.media.files.video_stream import best_video, describe_choice
from streamcap.media.orientation import SQUARE, sample_aspect

log = logging.getLogger(__name__)

# libavformat also opens text as ANSI art and images as videos of one frame.
_NO_VIDEOS = frozenset({"tty", "bin", "xbin", "adf", "idf", "image2"})
# Decoding this many unwanted frames costs less than a seek, which flushes the decoder.
_SEEK_BEYOND_FRAMES = 12
_MAX_THREADS = 4
MAX_FRAME_PIXELS = 8192 * 4608
"""Limit of a frame: 8K. A decoder may hold 16 frames."""
_LIMITS = {"max_pixels": str(MAX_FRAME_PIXELS)}


@dataclass(frozen=True, slots=True)
class ChosenFrame:
    """A requested frame, decoded."""

    wanted: int
    """The requested ordinal."""
    ordinal: int
    """The actual ordinal; differs from `wanted` only if that frame could not be decoded."""
    seconds: float
    """Its PTS in seconds."""
    video_frame: av.VideoFrame
    """Not converted, not rotated."""
    sample_aspect: Fraction = SQUARE
    """Width of a pixel over its height."""


class VideoFile:
    """A video file, opened and indexed. Not for several threads at once; `close` it, or use it in `with`.

    Raises InputError for a file that is missing, not a video, or without frames.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.undecodable = 0
        """Requested frames without a replacement so far."""
        self._container, self._stream = _open(path)
        try:
            self.index = self._read_index()
            self._reopen()
        except BaseException:  # close the file on interrupts too
            self._container.close()
            raise
        self.width, self.height = self._stream.width, self._stream.height
        self.choice = describe_choice(self._container, self._stream)
        """One line that names the chosen video stream; None if there is only one."""
        self._seekable = self.index.by_pts

    def _read_index(self) -> VideoIndex:
        try:
            index = index_packets(self._container, self._stream)
            if index is None:
                self._reopen()
                index = index_frames(self._container, self._stream)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None
        return index

    def _reopen(self) -> None:
        self._container.close()
        self._container, self._stream = _open(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._container.close()

    def frames(self, ordinals: Sequence[int]) -> Iterator[ChosenFrame]:
        """The frames with these ordinals of `index`. `ordinals` must rise; call it once for an instance.

        A frame that cannot be decoded is replaced by the next decodable one before the next requested frame; if there
        is none, it is left out and counted in `undecodable`. All frames keep their own PTS.
        """
        requested = iter(ordinals)
        want = next(requested, None)
        for ordinal, video_frame in self._video_frames(ordinals):
            while want is not None and ordinal >= want:
                following = next(requested, None)
                if following is None or ordinal < following:
                    seconds = self.index.seconds(self.index.pts[ordinal])
                    yield ChosenFrame(want, ordinal, seconds, video_frame, sample_aspect(self._stream))
                else:
                    self.undecodable += 1
                want = following
            if want is None:
                return
        if want is not None:
            self.undecodable += 1 + sum(1 for _ in requested)

    def _video_frames(self, ordinals: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """Decoded frames with rising ordinals, including the requested ones."""
        if self.index.by_pts:
            yield from self._video_frames_by_pts(ordinals)
            return
        yield from zip(range(len(self.index.pts)), decode(self._container, self._stream), strict=False)

    def _video_frames_by_pts(self, ordinals: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        index = self.index
        requested_pts = {index.pts[ordinal] for ordinal in ordinals}
        upcoming = iter(ordinals)
        want = next(upcoming, None)
        # Keeps ordinals rising if a seek lands early or a damaged stream repeats frames.
        latest = -1
        while want is not None:
            for ordinal, video_frame in self._decoded(self._packets_for(want, latest), requested_pts):
                if ordinal <= latest:
                    continue
                latest = ordinal
                yield ordinal, video_frame
                if latest >= want:
                    want = next((later for later in upcoming if later > latest), None)
                    if want is None or self._worth_seeking(want, latest):
                        break
            else:
                return

    def _decoded(
        self, packets: Iterator[av.Packet[Any]], requested_pts: AbstractSet[int]
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames of `packets` with their ordinals. Skips unneeded frames if that is safe."""
        index = self.index
        for packet in packets:
            unwanted = index.unbroken and packet.pts is not None and packet.pts not in requested_pts
            self._stream.codec_context.skip_frame = "NONREF" if unwanted else "DEFAULT"
            for video_frame in video_frames(packet):
                if video_frame.pts is not None and video_frame.pts >= index.pts[0]:
                    yield index.shown_at(video_frame.pts), video_frame

    def _worth_seeking(self, want: int, latest: int) -> bool:
        if not self._seekable or want - latest <= _SEEK_BEYOND_FRAMES:
            return False
        keyframe = self.index.keyframe_before(self.index.pts[want])
        return self.index.shown_at(keyframe.pts) - latest > _SEEK_BEYOND_FRAMES

    def _packets_for(self, want: int, latest: int) -> Iterator[av.Packet[Any]]:
        """Packets from which frame `want` can be decoded; `latest` is the last decoded one."""
        if self._worth_seeking(want, latest):
            keyframe = self.index.keyframe_before(self.index.pts[want])
            # A container seeks by PTS or by DTS, so the result is checked.
            for stamp in {keyframe.pts: None, keyframe.dts: None}:
                packets = None if stamp is None else self._seek(stamp, keyframe)
                if packets is not None:
                    return packets
            self._seekable = False
            self._reopen()
        return until_damaged(self._container.demux(self._stream), "decoding")

    def _seek(self, stamp: int, keyframe: Keyframe) -> Iterator[av.Packet[Any]] | None:
        """The packets from `keyframe` on; None if seeking to `stamp` leads elsewhere."""
        try:
            self._container.seek(stamp, stream=self._stream)
            packets = self._container.demux(self._stream)
            first = next(packets, None)
        except av.FFmpegError as error:
            log.debug("%s: seeking to %s failed: %s", self.path, stamp, error)
            return None
        if first is None or first.pts != keyframe.pts or not first.is_keyframe:
            return None
        return until_damaged(chain([first], packets), "decoding")


def check_video(path: Path) -> None:
    """Open a video file and close it again. Raises InputError if it is not a video."""
    container, _ = _open(path)
    container.close()


def _open(path: Path) -> tuple[InputContainer, VideoStream]:
    """The container and its best video stream, ready to decode. Raises InputError."""
    if not path.exists():
        raise InputError(f"{path}: there is no such file")
    if path.is_dir():
        raise InputError(f"{path}: a directory, not a video")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        # Without the prefix, a name with a colon would be parsed as a URL.
        container = av.open(f"file:{path}", format=file_format(path), options={**FILE_OPTIONS, **_LIMITS})
    except av.error.ArgumentError:  # the error of libav for a format that is not on the whitelist
        raise InputError(f"{path}: not a video: the file must be {ACCEPTED}") from None
    except av.FFmpegError as error:
        reason = why_unreadable(path) or f"not a video that can be read: {error.strerror}"
        raise InputError(f"{path}: {reason}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from None
    try:
        stream = _best_stream(container, path)
    except BaseException:  # close the file on interrupts too
        container.close()
        raise
    stream.thread_type = "AUTO"
    stream.thread_count = _MAX_THREADS
    stream.codec_context.options = _LIMITS
    return container, stream


def _best_stream(container: InputContainer, path: Path) -> VideoStream:
    """The video stream that a player would show. A cover image is not a video."""
    if container.format.name in _NO_VIDEOS or container.format.name.endswith("_pipe"):
        raise InputError(f"{path}: not a video")
    stream = best_video(container)
    if stream is None:
        if container.streams.audio:
            raise InputError(f"{path}: there is only sound in this file; a video is needed")
        raise InputError(f"{path}: there is no video in this file; is it cut short?")
    if stream.codec_context is None:
        raise InputError(f"{path}: there is no decoder for its video")
    if stream.width * stream.height > MAX_FRAME_PIXELS:
        raise InputError(
            f"{path}: frames of {stream.width}x{stream.height} pixels; at most {MAX_FRAME_PIXELS / 1e6:.0f} megapixels"
        )
    return stream
