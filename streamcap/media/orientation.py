"""How to show a decoded frame: rotation and flips of its display matrix, and its pixel aspect ratio."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from av import VideoFrame
from av.sidedata.sidedata import Type
from av.video.stream import VideoStream

from streamcap.media.display_color import displayed, pixel_format

SQUARE = Fraction(1)
"""The sample aspect ratio of square pixels."""
_MAX_ASPECT = 16
"""Sample aspect ratios beyond 1:16 and 16:1 come from damaged headers and count as square."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight orientations of an image. First `transpose`, then the flips."""

    transpose: bool = False
    """Rows become columns."""
    flip_horizontal: bool = False
    flip_vertical: bool = False

    def apply(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of `pixels`, (H, W, C) or (H, W), in display orientation."""
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flip_vertical else 1, :: -1 if self.flip_horizontal else 1]


UPRIGHT = Orientation()


def orientation_of(frame: VideoFrame) -> Orientation:
    """The orientation in the frame's display matrix, rounded to quarter turns."""
    sides: Iterable[Any] = frame.side_data
    data = next((side for side in sides if side.type == Type.DISPLAYMATRIX), None)
    if data is None or data.buffer_size < 36:
        return UPRIGHT
    # libavutil/display.h: (p, q) of the frame is shown at (a p + c q, b p + d q).
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, flip_horizontal=c < 0, flip_vertical=b < 0)
    return Orientation(False, flip_horizontal=a < 0, flip_vertical=d < 0)


def sample_aspect(stream: VideoStream) -> Fraction:
    """Width of a pixel over its height: the container's, else the codec's, else 1."""
    for aspect in (stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio):
        if aspect and Fraction(1, _MAX_ASPECT) <= aspect <= _MAX_ASPECT:
            return aspect
    return SQUARE


def display_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Size in square pixels of `width` x `height` pixels of that aspect: one side grows, neither shrinks."""
    if aspect >= 1:
        return round(width * aspect), height
    return width, round(height / aspect)


def show(frame: VideoFrame, aspect: Fraction = SQUARE, *, max_side: int | None = None) -> npt.NDArray[np.uint8]:
    """uint8 RGB (H, W, 3), upright, with square pixels, in the colors of a screen. Raises av.FFmpegError.

    max_side: scale larger frames down to it; None: full size.
    """
    width, height = display_size(frame.width, frame.height, aspect)
    if max_side is not None and max(width, height) > max_side:
        scale = max_side / max(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    scaled = frame.reformat(width=width, height=height, format=pixel_format(frame))
    return np.ascontiguousarray(orientation_of(frame).apply(displayed(scaled.to_ndarray(), frame)))
