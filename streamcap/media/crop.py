"""`CropScaler`: scales only the part of a frame that a crop keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from av import VideoFrame
from av.filter import Graph

from streamcap.image_spec import Placement
from streamcap.media.frame import Pixels

PIXEL_FORMATS = frozenset({"yuv420p", "yuvj420p"})
"""Formats of video decoders; frames of other formats are scaled completely."""
_MARGIN = 4
"""Scaled pixels around the crop that its border depends on: bicubic reaches two chroma pixels."""
_SLACK = 12
_MAX_SHARE = 0.9
"""Share of the frame above which scaling the complete frame is as fast."""


@dataclass(frozen=True, slots=True)
class CropSpan:
    """One axis: source pixels [start, stop) are scaled to the pixels [first, last)."""

    first: int
    last: int
    start: int
    stop: int


def crop_span(source: int, scaled: int, cut: int, size: int) -> CropSpan:
    """The span to scale so that pixels [cut, cut + size) equal those of scaling all of `source` to `scaled` pixels.

    Both ends are chosen where the source position is closest to an even integer (chroma has half the resolution): of a
    720p frame scaled to 398 × 224, no pixel moves by more than a fortieth of its width.
    """

    def nearest(end: int) -> int:
        return source if end == scaled else 2 * round(end * source / scaled / 2)

    def error(end: int) -> float:
        return abs(end * source / scaled - nearest(end))

    left = range(max(0, cut - _SLACK), max(0, cut - _MARGIN) + 1)
    right = range(min(scaled, cut + size + _MARGIN), min(scaled, cut + size + _SLACK) + 1)
    first, last = min(reversed(left), key=error), min(right, key=error)
    return CropSpan(first, last, nearest(first), nearest(last))


class CropScaler:
    """Scales the cropped part of frames of one size, format, color matrix and range, without a copy."""

    def __init__(self, video_frame: VideoFrame, placed: Placement, width: int, height: int, flags: str) -> None:
        """width, height: size of the model's image, which `placed` covers."""
        self.across = crop_span(video_frame.width, placed.scaled_width, -placed.left, width)
        self.down = crop_span(video_frame.height, placed.scaled_height, -placed.top, height)
        self._left, self._top = -placed.left - self.across.first, -placed.top - self.down.first
        self._size = width, height
        across, down = self.across, self.down
        graph = Graph()
        graph.threads = 1
        self._source = graph.add(
            "buffer",
            video_size=f"{video_frame.width}x{video_frame.height}",
            pix_fmt=video_frame.format.name,
            time_base="1/90000",
            colorspace=str(int(video_frame.colorspace)),
            range=str(int(video_frame.color_range)),
        )
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
        """uint8 RGB, (height, width, 3): a view of libav's memory. Raises av.FFmpegError if libav cannot."""
        self._source.push(video_frame)
        scaled = cast(Pixels, cast(VideoFrame, self._sink.pull()).to_ndarray())
        width, height = self._size
        return scaled[self._top : self._top + height, self._left : self._left + width]


def is_worthwhile(video_frame: VideoFrame, placed: Placement, width: int, height: int) -> bool:
    """Whether a `CropScaler` supports this frame and saves time."""
    covers = placed.scaled_width >= width and placed.scaled_height >= height
    smaller = placed.scaled_width <= video_frame.width and placed.scaled_height <= video_frame.height
    share = width * height / (placed.scaled_width * placed.scaled_height)
    return covers and smaller and share < _MAX_SHARE and video_frame.format.name in PIXEL_FORMATS
