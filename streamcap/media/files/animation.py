"""Animated images as videos: GIF and APNG through libav, WebP through Pillow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from PIL import Image

from streamcap.errors import InputError
from streamcap.media.files.heif import is_image_container
from streamcap.media.files.image_file import identify_image, to_rgb
from streamcap.media.files.video_file import ChosenFrame, VideoFile
from streamcap.media.files.video_index import VideoIndex

ANIMATED_SUFFIXES = frozenset({".gif", ".png", ".apng", ".webp", ".avif"})
_MILLISECOND = Fraction(1, 1000)
_NO_DURATION_MS = 100
"""What browsers use for a frame with a duration of 0."""


def is_animated(path: Path) -> bool:
    """Whether an image file has several frames. Raises InputError if it is not an image."""
    with identify_image(path) as image:
        return bool(getattr(image, "is_animated", False))


def open_video(path: Path) -> VideoFile | AnimatedImage:
    """Open a video file or an animated image. Raises InputError if it is neither."""
    return AnimatedImage(path) if path.is_file() and _is_pillows(path) else VideoFile(path)


def _is_pillows(path: Path) -> bool:
    """Whether the content is WebP or AVIF, which libav does not play, under any name."""
    with path.open("rb") as file:
        first = file.read(64)
    return (first[:4] == b"RIFF" and first[8:12] == b"WEBP") or is_image_container(first)


class AnimatedImage:
    """An animated image that libav cannot play, with the interface of `VideoFile`.

    Raises InputError for a file that is missing, no image, or damaged.
    """

    choice = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.undecodable = 0
        durations = []
        for image in self._images():
            self.width, self.height = image.size
            durations.append(round(image.info.get("duration") or 0) or _NO_DURATION_MS)
        stamps = list(accumulate(durations, initial=0))
        self.index = VideoIndex(_MILLISECOND, 0, tuple(stamps[:-1]), stamps[-1], (), unbroken=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """No file stays open."""

    def frames(self, ordinals: Sequence[int]) -> Iterator[ChosenFrame]:
        """The frames with these ordinals of `index`; `ordinals` must rise."""
        requested = set(ordinals)
        for ordinal, image in enumerate(self._images()):
            if ordinal in requested:
                frame = av.VideoFrame.from_ndarray(np.asarray(to_rgb(image)), format="rgb24")
                yield ChosenFrame(ordinal, ordinal, self.index.seconds(self.index.pts[ordinal]), frame)
            if ordinal >= ordinals[-1]:
                return

    def _images(self) -> Iterator[Image.Image]:
        with identify_image(self.path) as image:
            for number in range(getattr(image, "n_frames", 1)):
                try:
                    image.seek(number)
                    image.load()
                except (OSError, EOFError, SyntaxError, ValueError) as error:
                    raise InputError(f"{self.path}: frame {number} is damaged: {error}") from None
                yield image
