"""`Converter`: converts sampled frames to the pixels of the model."""

from __future__ import annotations

import threading
from fractions import Fraction

import numpy as np
from av import FFmpegError, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from streamcap.image_spec import ImageSpec, Placement
from streamcap.media.crop import CropScaler, is_worthwhile
from streamcap.media.display_color import displayed, needs_conversion, pixel_format
from streamcap.media.frame import Frame, Pixels
from streamcap.media.orientation import SQUARE, UPRIGHT, display_size, orientation_of

_INTERPOLATIONS = {
    "bicubic": Interpolation.BICUBIC,
    "bilinear": Interpolation.BILINEAR,
    "area": Interpolation.AREA,
}


class Converter:
    """Frames → uint8 RGB of `spec`: (H, W, 3), or (T, H, W, 3) for a clip model. Any thread may call it.

    libav scales, converts and crops in one step without holding the GIL. Each thread has its own context, rebuilt when
    the size or format of the frames changes.
    """

    def __init__(self, spec: ImageSpec, clip_length: int | None = None) -> None:
        self.spec = spec
        self.clip_length = clip_length
        self._local = threading.local()

    def __call__(self, frames: list[Frame]) -> Pixels:
        """The newest of `frames`, or all of them, oldest first, for a clip model. The pixels are a copy.

        Raises av.FFmpegError for a frame that libav cannot convert, ValueError for no frames.
        """
        if not frames:
            raise ValueError("no frames to convert")
        if self.clip_length is None:
            return self.convert(frames[-1].video_frame, frames[-1].sample_aspect)
        return np.stack([self.convert(frame.video_frame, frame.sample_aspect) for frame in frames])

    def convert(self, video_frame: VideoFrame, aspect: Fraction = SQUARE) -> Pixels:
        """One libav frame, rotated and flipped by its display matrix: uint8 RGB, (H, W, 3).

        aspect: width of a pixel over its height (see `sample_aspect`).
        """
        spec = self.spec
        orientation = orientation_of(video_frame)
        width, height = display_size(video_frame.width, video_frame.height, aspect)
        if orientation.transpose:
            width, height = height, width
        placed = spec.place(width, height)
        if (
            orientation == UPRIGHT
            and not needs_conversion(video_frame)
            and is_worthwhile(video_frame, placed, *spec.size)
        ):
            crop = self._crop(video_frame, placed)
            if crop is not None:
                return crop
        scaled = placed.scaled_width, placed.scaled_height
        source_size = reversed(scaled) if orientation.transpose else scaled
        upright = orientation.apply(self._scale(video_frame, *source_size))
        if (placed.left, placed.top, *scaled) == (0, 0, spec.width, spec.height):
            return upright.copy()
        out: Pixels = np.empty((spec.height, spec.width, 3), np.uint8)
        if placed.left > 0 or placed.top > 0 or scaled[0] < spec.width or scaled[1] < spec.height:
            out[:] = spec.fill
        left, top = max(0, placed.left), max(0, placed.top)
        cut_left, cut_top = max(0, -placed.left), max(0, -placed.top)
        visible = upright[cut_top : cut_top + spec.height - top, cut_left : cut_left + spec.width - left]
        out[top : top + visible.shape[0], left : left + visible.shape[1]] = visible
        return out

    def _crop(self, video_frame: VideoFrame, placed: Placement) -> Pixels | None:
        """The pixels from a `CropScaler`; None if libav cannot filter such frames."""
        key = (
            video_frame.width,
            video_frame.height,
            video_frame.format.name,
            video_frame.colorspace,
            video_frame.color_range,
            placed,
        )
        cached_key, crop = getattr(self._local, "crop", (None, None))
        try:
            if cached_key != key:
                flags = self.spec.interpolation
                crop = CropScaler(video_frame, placed, *self.spec.size, flags)
            pixels = None if crop is None else crop.scale(video_frame).copy()
        except FFmpegError:
            crop = pixels = None
        self._local.crop = key, crop
        return pixels

    def _scale(self, video_frame: VideoFrame, width: int, height: int) -> Pixels:
        """RGB in the colors of a screen; often a view of the scaled frame's memory."""
        reformatter: VideoReformatter | None = getattr(self._local, "reformatter", None)
        if reformatter is None:
            reformatter = self._local.reformatter = VideoReformatter()
        scaled = reformatter.reformat(
            video_frame,
            width=width,
            height=height,
            format=pixel_format(video_frame),
            interpolation=_INTERPOLATIONS[self.spec.interpolation],
        )
        return displayed(scaled.to_ndarray(), video_frame)
