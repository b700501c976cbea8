"""`FrameMask`: makes the masked pixels of decoded frames gray, in the frame's own pixel format."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt
from av import VideoFrame
from av.video.format import VideoFormat

from streamcap.errors import StreamcapError
from streamcap.media.frame import Frame
from streamcap.media.mask import Mask, Polygon
from streamcap.media.orientation import Orientation, orientation_of

# Each pixel has its own color, so that conversion to rgb24 mixes no masked pixel into others.
_CONVERTIBLE = frozenset(
    (
        *("pal8", "monow", "monob", "rgb8", "bgr8", "rgb565le", "bgr565le", "rgb555le", "bgr555le"),
        *("rgb48le", "rgb48be", "rgba64le", "rgba64be", "gray16be", "ya8", "ya16be"),
    )
)
_PACKED_422 = frozenset({"yuyv422", "uyvy422", "yvyu422"})


class UnmaskableError(StreamcapError):
    """The frame's pixel format is unknown here. It must not be shown."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """One plane: how its bytes belong to pixels."""

    plane: int
    columns: int
    """Pixels side by side that share a group of bytes: 2 for the chroma of 4:2:0."""
    rows: int
    """Pixels one above the other that share it."""
    gray: bytes
    """The group of bytes of gray, transparent pixels."""
    opaque: bytes = b""
    """Added to make them opaque; empty if the plane has no alpha."""


@dataclass(frozen=True, slots=True)
class _Patch:
    """A rectangle of one plane, in bytes: `plane & keep | gray`."""

    plane: int
    rows: slice
    columns: slice
    keep: npt.NDArray[np.uint8] | None
    """255 where a byte stays, else 0; None: none stays."""
    gray: npt.NDArray[np.uint8]
    """The new bytes, 0 where the old ones stay."""
    opaque: npt.NDArray[np.uint8] | None
    """As `gray`: what makes masked pixels opaque."""


@dataclass(frozen=True, slots=True)
class _Alpha:
    """The bytes of a plane that hold the alpha of all pixels."""

    plane: int
    rows: slice
    columns: slice


class FrameMask:
    """Applies a mask to frames of any size, rotation and pixel format. Not thread-safe.

    Pixels that share color samples with a masked one lose their color too: no byte that depends on a masked pixel
    stays.
    """

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._key: object = None
        self._patches: list[_Patch] = []
        self._alpha: _Alpha | None = None

    def prepare(self, frame: Frame) -> Frame:
        """`frame` in a pixel format that `apply` knows. Raises UnmaskableError, av.FFmpegError."""
        video_frame = frame.video_frame
        if _layouts(video_frame.format) and all(plane.line_size > 0 for plane in video_frame.planes):
            return frame
        if video_frame.format.name in _CONVERTIBLE:
            return replace(frame, video_frame=video_frame.reformat(format="rgb24"))
        raise UnmaskableError(
            f"a mask cannot be applied to frames of pixel format {video_frame.format.name}; set the camera to 8-bit "
            "4:2:0, or remove the mask"
        )

    def apply(self, video_frame: VideoFrame) -> None:
        """Make the masked pixels of a prepared frame gray, in place: the decoder's own buffers stay as they are."""
        orientation = orientation_of(video_frame)
        key = video_frame.width, video_frame.height, video_frame.format.name, orientation
        if key != self._key:
            self._patches = list(self._patches_of(video_frame, orientation))
            self._alpha = _alpha_of(video_frame)
            self._key = key
        video_frame.make_writable()
        planes = [
            np.frombuffer(cast("memoryview", plane), np.uint8).reshape(-1, plane.line_size)
            for plane in video_frame.planes
        ]
        for patch in self._patches:
            area = planes[patch.plane][patch.rows, patch.columns]
            if patch.keep is None:
                np.copyto(area, patch.gray)
            else:
                np.bitwise_and(area, patch.keep, out=area)
                np.bitwise_or(area, patch.gray, out=area)
        if self._alpha is None or not planes[self._alpha.plane][self._alpha.rows, self._alpha.columns].any():
            return  # some cameras leave the alpha of all pixels 0, and `display_color` ignores it then
        for patch in self._patches:
            if patch.opaque is not None:
                area = planes[patch.plane][patch.rows, patch.columns]
                np.bitwise_or(area, patch.opaque, out=area)

    def _patches_of(self, video_frame: VideoFrame, orientation: Orientation) -> Iterator[_Patch]:
        size = video_frame.width, video_frame.height
        for polygon, layout in itertools.product(self._mask, _layouts(video_frame.format)):
            yield _patch(_decoded_pixels(polygon, *size, orientation), layout)


def _decoded_pixels(polygon: Polygon, width: int, height: int, orientation: Orientation) -> npt.NDArray[np.bool_]:
    """(height, width): the masked pixels of a frame as decoded, before `orientation` is applied."""
    shown_size = (height, width) if orientation.transpose else (width, height)
    # Where each pixel of the shown picture comes from.
    source = orientation.apply(np.arange(width * height).reshape(height, width))
    pixels = np.zeros(width * height, np.bool_)
    pixels[source[rasterize(polygon, *shown_size)]] = True
    return pixels.reshape(height, width)


def _patch(pixels: npt.NDArray[np.bool_], layout: _Layout) -> _Patch:
    height, width = pixels.shape
    padding = (0, -height % layout.rows), (0, -width % layout.columns)
    blocks = np.pad(pixels, padding)
    by_group = blocks.reshape(blocks.shape[0] // layout.rows, layout.rows, -1, layout.columns)
    groups: npt.NDArray[np.bool_] = np.any(by_group, axis=(1, 3))
    rows, columns = np.flatnonzero(groups.any(axis=1)), np.flatnonzero(groups.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    masked = groups[top:bottom, left:right]
    size = len(layout.gray)
    by_bytes = np.repeat(masked, size, axis=1)
    keep = None if masked.all() else np.where(by_bytes, 0, 255).astype(np.uint8)

    def tiled(pixel: bytes) -> npt.NDArray[np.uint8]:
        return np.where(by_bytes, np.tile(np.frombuffer(pixel, np.uint8), masked.shape[1]), 0).astype(np.uint8)

    columns_of_bytes = slice(left * size, right * size)
    opaque = tiled(layout.opaque) if layout.opaque else None
    return _Patch(layout.plane, slice(top, bottom), columns_of_bytes, keep, tiled(layout.gray), opaque)


def _layouts(form: VideoFormat) -> list[_Layout]:
    """The planes of a pixel format; empty if the format is not known here."""
    components = form.components
    if form.name in _PACKED_422:
        return [_Layout(0, 2, 1, b"\x80" * 4)]
    if form.name in _CONVERTIBLE or form.is_big_endian or form.name.startswith("bayer"):
        return []
    layouts = []
    for plane in sorted({component.plane for component in components}):
        parts = [component for component in components if component.plane == plane]
        first = parts[0]
        if all(part.is_alpha for part in parts):
            # Opaque: how transparent a masked pixel was would show on the white behind it.
            opaque = _opaque(first.bits)
            layouts.append(_Layout(plane, 1, 1, bytes(len(opaque)), opaque))
            continue
        full_size = all((part.width, part.height) == (form.width, form.height) for part in parts)
        if len(parts) > 2 and form.is_rgb and full_size and all(part.bits == 8 for part in parts):
            layouts.append(_Layout(plane, 1, 1, *_packed_gray(form)))
        elif len(parts) == 1 or (all(part.is_chroma for part in parts) and len(parts) == 2):
            if not 8 <= first.bits <= 16 or (not form.is_planar and len(components) > 1):
                return []
            columns, rows = -(-form.width // first.width), -(-form.height // first.height)
            layouts.append(_Layout(plane, columns, rows, _middle(form, first.bits) * len(parts)))
        else:
            return []
    return layouts


def _packed_gray(form: VideoFormat) -> tuple[bytes, bytes]:
    """The bytes of a gray pixel of a packed RGB format and of its opacity. Alpha is at the end named first or last."""
    size = form.padded_bits_per_pixel // 8
    if not any(component.is_alpha for component in form.components):
        return b"\x80" * size, b""
    color, none, full = b"\x80" * (size - 1), b"\0", b"\xff"
    if form.name.startswith("a"):
        return none + color, full + bytes(size - 1)
    return color + none, bytes(size - 1) + full


def _alpha_of(video_frame: VideoFrame) -> _Alpha | None:
    """Where the alpha of a frame of a known format is; None if it has none."""
    for layout in _layouts(video_frame.format):
        if layout.opaque:
            size = len(layout.opaque)
            first = layout.opaque.index(b"\xff")
            step = size if size > 2 else 1
            return _Alpha(layout.plane, slice(video_frame.height), slice(first, video_frame.width * size, step))
    return None


def _opaque(bits: int) -> bytes:
    """The highest value of a component."""
    return ((1 << bits) - 1).to_bytes(1 if bits == 8 else 2, "little")


def _middle(form: VideoFormat, bits: int) -> bytes:
    """Half of the range of a component, as it is stored."""
    if bits == 8:
        return b"\x80"
    # P010 and its kin keep the bits at the upper end of two bytes.
    high_bits = form.name[:2] in ("p0", "p2", "p4")
    return (1 << (15 if high_bits else bits - 1)).to_bytes(2, "little")


def rasterize(polygon: Polygon, width: int, height: int) -> npt.NDArray[np.bool_]:
    """(height, width): the pixels of which the polygon covers any part."""
    # Differences along each row: of the winding number at the pixels' centers, and of the number of edges in a pixel.
    winding = np.zeros((height, width + 1), np.int32)
    edges = np.zeros((height, width + 1), np.int32)
    points = [(x * width, y * height) for x, y in polygon]
    for start, end in zip(points, (*points[1:], points[0]), strict=True):
        (x0, y0), (x1, y1) = upper, _ = sorted((start, end), key=lambda point: point[1])
        dx, dy = x1 - x0, y1 - y0
        # The rows whose center line the edge crosses: at or below its upper end, above its lower one.
        rows = np.arange(math.ceil(y0 - 0.5), math.ceil(y1 - 0.5))
        # Divided before it is multiplied: dx / dy overflows where dy is subnormal. Without rows dy may be 0.
        crossings = x0 + (rows + 0.5 - y0) / (dy or 1.0) * dx
        winding[rows, np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.intp)] += 1 if upper is start else -1
        # The pixels that it passes through.
        rows = np.arange(min(height - 1, int(y0)), min(height - 1, int(y1)) + 1)
        entry = x0 + (np.maximum(rows, y0) - y0) / dy * dx if dy > 0 else np.full(rows.size, x0)
        leave = x0 + (np.minimum(rows + 1, y1) - y0) / dy * dx if dy > 0 else np.full(rows.size, x1)
        first, last = (
            np.clip(side, 0, width - 1).astype(np.intp) for side in (np.minimum(entry, leave), np.maximum(entry, leave))
        )
        edges[rows, first] += 1
        edges[rows, last + 1] -= 1
    # A pixel that no edge passes through is inside wholly or not at all.
    masked: npt.NDArray[np.bool_] = ((winding.cumsum(axis=1) != 0) | (edges.cumsum(axis=1) > 0))[:, :width]
    return masked
