"""`CropScaler`: the part of a frame that a crop leaves, scaled on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from av import VideoFrame
from av.filter import Graph

from streamcap.image_spec import Placement
from streamcap.media.frame import Pixels

PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p"})
"""What decoders give; frames of other formats are scaled whole."""
_RIM = 4
"""Scaled pixels beyond the window that its outermost ones are made of: bicubic reaches two, of half-width colours."""
_SLACK = 12
_WORTH = 0.9
"""Share of the frame's pixels above which the whole is as quickly scaled."""


@dataclass(frozen=True, slots=True)
class CropSpan:
    """Along one axis: scaled pixels [first, last) are made from the source's pixels [start, stop)."""

    first: int
    last: int
    start: int
    stop: int


def crop_span(source: int, scaled: int, cut: int, seen: int) -> CropSpan:
    """What to scale so that [cut, cut + seen) of `scaled` pixels comes out as if all of `source` had been.

    Both ends lie where the source's pixel is nearest to a whole even number (colours have half the resolution): of a
    720p frame scaled to 398 × 224, no scaled pixel moves by more than a fortieth of its width.
    """

    def near(end: int) -> int:
        return source if end == scaled else 2 * round(end * source / scaled / 2)

    def error(end: int) -> float:
        return abs(end * source / scaled - near(end))

    left = range(max(0, cut - _SLACK), max(0, cut - _RIM) + 1)
    right = range(min(scaled, cut + seen + _RIM), min(scaled, cut + seen + _SLACK) + 1)
    first, last = min(reversed(left), key=error), min(right, key=error)
    return CropSpan(first, last, near(first), near(last))


class CropScaler:
    """Scales what is seen of frames of one size, format, matrix and range. libav's crop copies nothing."""

    def __init__(self, video_frame: VideoFrame, placed: Placement, width: int, height: int, flags: str) -> None:
        """width, height: of the model's frame, which `placed` covers."""
        self.across = crop_span(video_frame.width, placed.scaled_width, -placed.left, width)
        self.down = crop_span(video_frame.height, placed.scaled_height, -placed.top, height)
        self._left, self._top = -placed.left - self.across.first, -placed.top - self.down.first
        self._size = width, height
        across, down = self.across, self.down
        graph = Graph()
        graph.threads = 1
        self._source = graph.add(
            "buffer", video_size=f"{video_frame.width}x{video_frame.height}", pix_fmt=video_frame.format.name, time_base="1/90000",
            colorspace=str(int(video_frame.colorspace)), range=str(int(video_frame.color_range)),
        )  # fmt: skip
        self._sink = graph.add("buffersink")
        graph.link_nodes(
            self._source,
            graph.add("crop", f"{across.stop - across.start}:{down.stop - down.start}:{across.start}:{down.start}"),
            graph.add("scale", f"{across.last - across.first}:{down.last - down.first}:flags={flags}"),
            graph.add("format", "pix_fmts=rgb24"),
            self._sink,
        ).configure(auto_buffer=False)
        self._graph = graph

    def scale(self, video_frame: VideoFrame) -> Pixels:
        """uint8 RGB, (height, width, 3): a view of libav's memory. Raises av.FFmpegError where libav cannot."""
        self._source.push(video_frame)
        scaled = cast(Pixels, cast(VideoFrame, self._sink.pull()).to_ndarray())
        width, height = self._size
        return scaled[self._top : self._top + height, self._left : self._left + width]


def is_worthwhile(video_frame: VideoFrame, placed: Placement, width: int, height: int) -> bool:
    """Whether a window is to be had for this frame, and saves anything."""
    covers = placed.scaled_width >= width and placed.scaled_height >= height
    smaller = placed.scaled_width <= video_frame.width and placed.scaled_height <= video_frame.height
    share = width * height / (placed.scaled_width * placed.scaled_height)
    return covers and smaller and share < _WORTH and video_frame.format.name in PIXEL_FORMATS
