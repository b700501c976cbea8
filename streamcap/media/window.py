"""`Window`: the part of a picture that a crop leaves, scaled on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from av import VideoFrame
from av.filter import Graph

from streamcap.media.frame import Pixels
from streamcap.picture import Placement

FORMATS = frozenset({"yuv420p", "yuvj420p"})
"""What decoders give; pictures of other formats are scaled whole."""
_RIM = 4
"""Scaled pixels beyond the window that its outermost ones are made of: bicubic reaches two, of half-width colours."""
_SLACK = 12
_WORTH = 0.9
"""Share of the picture's pixels above which the whole is as quickly scaled."""


@dataclass(frozen=True, slots=True)
class Span:
    """Along one axis: scaled pixels [first, last) are made from the source's pixels [start, stop)."""

    first: int
    last: int
    start: int
    stop: int


def span(source: int, scaled: int, cut: int, seen: int) -> Span:
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
    return Span(first, last, near(first), near(last))


class Window:
    """Scales what is seen of pictures of one size, format, matrix and range. libav's crop copies nothing."""

    def __init__(self, picture: VideoFrame, placed: Placement, width: int, height: int, flags: str) -> None:
        """width, height: of the model's picture, which `placed` covers."""
        self.across = span(picture.width, placed.scaled_width, -placed.left, width)
        self.down = span(picture.height, placed.scaled_height, -placed.top, height)
        self._left, self._top = -placed.left - self.across.first, -placed.top - self.down.first
        self._size = width, height
        across, down = self.across, self.down
        graph = Graph()
        graph.threads = 1
        self._source = graph.add(
            "buffer", video_size=f"{picture.width}x{picture.height}", pix_fmt=picture.format.name, time_base="1/90000",
            colorspace=str(int(picture.colorspace)), range=str(int(picture.color_range)),
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

    def scale(self, picture: VideoFrame) -> Pixels:
        """uint8 RGB, (height, width, 3): a view of libav's memory. Raises av.FFmpegError where libav cannot."""
        self._source.push(picture)
        scaled = cast(Pixels, cast(VideoFrame, self._sink.pull()).to_ndarray())
        width, height = self._size
        return scaled[self._top : self._top + height, self._left : self._left + width]


def worth(picture: VideoFrame, placed: Placement, width: int, height: int) -> bool:
    """Whether a window is to be had for this picture, and saves anything."""
    covers = placed.scaled_width >= width and placed.scaled_height >= height
    smaller = placed.scaled_width <= picture.width and placed.scaled_height <= picture.height
    share = width * height / (placed.scaled_width * placed.scaled_height)
    return covers and smaller and share < _WORTH and picture.format.name in FORMATS
