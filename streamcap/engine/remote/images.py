"""`ImageSampler`: the images of a sample for a remote model."""

from __future__ import annotations

from functools import lru_cache

from streamcap.image_spec import ImageSpec
from streamcap.media.convert import Converter
from streamcap.media.frame import Frame, SampledImage
from streamcap.media.orientation import display_size, orientation_of


class ImageSampler:
    """Frames → uint8 RGB images, upright, with square pixels, uncropped. Any thread may call it.

    Parameters:
        max_side: pixels of the longer side; smaller frames are not enlarged.
    """

    def __init__(self, max_side: int) -> None:
        self._max_side = max_side

    def __call__(self, frames: list[Frame]) -> tuple[SampledImage, ...]:
        """Each of `frames` once, oldest first. Raises av.FFmpegError for a frame that libav cannot convert."""
        distinct = {frame.pts: frame for frame in frames}.values()
        newest = frames[-1].time
        return tuple(self._image(frame, newest - frame.time) for frame in distinct)

    def _image(self, frame: Frame, age: float) -> SampledImage:
        width, height = display_size(*frame.size, frame.sample_aspect)
        if orientation_of(frame.video_frame).transpose:
            width, height = height, width
        scale = min(1.0, self._max_side / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return SampledImage(_converter(*size).convert(frame.video_frame, frame.sample_aspect), age)


@lru_cache(maxsize=64)
def _converter(width: int, height: int) -> Converter:
    return Converter(ImageSpec(width, height, fit="squash", interpolation="area"))
