"""Captions of files: images one by one, videos at chosen frames. Decoding runs ahead of the model in a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import av
import numpy as np

from streamcap.captions.cue import Cue, to_ms
from streamcap.errors import InputError
from streamcap.media.convert import Converter
from streamcap.media.files.image_file import open_image
from streamcap.media.files.video_file import ChosenFrame, VideoFile
from streamcap.media.files.video_index import VideoIndex
from streamcap.offline.prefetch import Prefetcher

if TYPE_CHECKING:
    from PIL.Image import Image

    from streamcap.captioner import Captioner, Result, SearchOptions
    from streamcap.image_spec import Fit
    from streamcap.media.files.animation import AnimatedImage
    from streamcap.media.frame import Pixels

log = logging.getLogger(__name__)

DEFAULT_FRAMES = 10
"""Captions of a video unless told otherwise; a clip model gives one of the whole, as it was trained to."""
DEFAULT_BATCH = 16
# Batches decoded and not yet captioned: one is enough to keep the model busy.
_AHEAD = 1

Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class ModelInput(Generic[Subject]):
    """What one caption is of, ready for the model."""

    subject: Subject
    pixels: Pixels
    """uint8 RGB of the model's image size: (H, W, 3), or (T, H, W, 3) for a clip model."""


@dataclass(frozen=True, slots=True)
class ImageItem:
    """An image file."""

    path: Path
    image: Image | None
    """As a person sees it, at full size; None unless it was to be kept."""


@dataclass(frozen=True, slots=True)
class VideoMoment:
    """A chosen frame of a video, or a clip model's window of them."""

    seconds: float
    """The first frame's own PTS as a time."""
    frames: tuple[ChosenFrame, ...]
    """Each frame once, oldest first; empty unless they were to be kept."""


class FileCaptioner:
    """One model and one way of searching, for any number of files. All calls must come from one thread.

    Raises InputError where the model has no vision tower at hand.
    """

    def __init__(
        self,
        captioner: Captioner,
        search: SearchOptions,
        *,
        batch: int = DEFAULT_BATCH,
        fit: Fit | None = None,
    ) -> None:
        if batch < 1:
            raise InputError(f"a batch of {batch}: at least 1")
        self.clip_length = captioner.clip_length
        self._captioner = captioner
        self._search = search
        self._batch = batch
        self._spec = captioner.image_spec if fit is None else replace(captioner.image_spec, fit=fit)
        # One decoder for all batches, so that a seed gives the same captions whatever the size of a batch.
        self._decoder = None if search.beam_size > 1 else captioner.decoder(search, max_rows=batch)

    def images(
        self, paths: Iterable[Path], *, keep: bool = False, on_bad: Callable[[Path, InputError], None]
    ) -> Iterator[tuple[ImageItem, Result]]:
        """A caption for each image, in order; those that cannot be read are told to `on_bad`, in the reading thread.

        keep: whether the images are wanted back.
        """
        return self._captions(self._image_items(paths, keep, on_bad))

    def video(
        self, video: VideoFile | AnimatedImage, windows: Sequence[Sequence[int]], *, keep: bool = False
    ) -> Iterator[tuple[VideoMoment, Result]]:
        """A caption for each of `windows` (see `select_frames`), in order of time.

        One of which no frame can be decoded is left out. keep: whether the frames are wanted back.
        """
        return self._captions(self._moments(video, windows, keep))

    def _captions(self, inputs: Iterator[ModelInput[Subject]]) -> Iterator[tuple[Subject, Result]]:
        with Prefetcher(_batches(inputs, self._batch), _AHEAD, "decode") as batches:
            for batch in batches:
                results = self._describe([item.pixels for item in batch])
                for item, result in zip(batch, results, strict=True):
                    yield item.subject, result

    def _describe(self, pixels: list[Pixels]) -> list[Result]:
        embeddings = self._captioner.encode(np.stack(pixels))
        if self._decoder is None:
            return self._captioner.decode(embeddings, self._search)
        for number in range(len(pixels)):
            self._decoder.add(number, embeddings[number])
        finished: dict[int, Result] = {}
        while self._decoder.active:
            finished.update(self._decoder.step())
        return [finished[number] for number in range(len(pixels))]

    def _image_items(
        self, paths: Iterable[Path], keep: bool, on_bad: Callable[[Path, InputError], None]
    ) -> Iterator[ModelInput[ImageItem]]:
        from streamcap.captioner.preprocess import fit_image

        for path in paths:
            try:
                image = open_image(path)
            except InputError as error:
                on_bad(path, error)
                continue
            pixels = fit_image(np.asarray(image), self._spec)
            if self.clip_length is not None:
                # A still image is a clip in which nothing moves.
                pixels = np.stack([pixels] * self.clip_length)
            yield ModelInput(ImageItem(path, image if keep else None), pixels)

    def _moments(
        self, video: VideoFile | AnimatedImage, windows: Sequence[Sequence[int]], keep: bool
    ) -> Iterator[ModelInput[VideoMoment]]:
        convert = Converter(self._spec).convert
        frames = video.frames(sorted({ordinal for window in windows for ordinal in window}))
        following = next(frames, None)
        for window in windows:
            chosen: list[ChosenFrame] = []
            while following is not None and following.wanted <= window[-1]:
                chosen.append(following)
                following = next(frames, None)
            if not chosen:
                continue
            try:
                converted = {frame.wanted: convert(frame.video_frame, frame.sample_aspect) for frame in chosen}
            except av.FFmpegError as error:
                raise InputError(f"{video.path}: its images cannot be converted: {error.strerror}") from None
            # A frame that is missing is stood in for by its nearest neighbour.
            pixels = [converted[min(converted, key=lambda have: abs(have - ordinal))] for ordinal in window]
            at = VideoMoment(chosen[0].seconds, tuple(chosen) if keep else ())
            yield ModelInput(at, pixels[0] if self.clip_length is None else np.stack(pixels))


def select_frames(
    index: VideoIndex, clip_length: int | None, *, frames: int | None = None, every: float | None = None
) -> list[list[int]]:
    """Which frames of a video each caption is of: ordinals, one a caption, or `clip_length` for a clip model.

    frames: that many captions, evenly spread; every: one each so many seconds. Raises InputError for both.
    """
    if frames is not None and every is not None:
        raise InputError("give either a number of frames or seconds between them, not both")
    if clip_length is None:
        ordinals = index.spread(DEFAULT_FRAMES if frames is None else frames) if every is None else index.every(every)
        return [[ordinal] for ordinal in ordinals]
    if every is None:
        return index.windows(1 if frames is None else frames, clip_length)
    return index.windows_every(every, clip_length)


def to_cues(captions: Sequence[tuple[float, str]], end: float) -> list[Cue]:
    """Each caption from its time until the next one's, the last until `end`; seconds. One cue a caption.

    Frames within one millisecond share their time, which a cue cannot: only the last of them is kept.
    """
    stamped = [(to_ms(seconds), text) for seconds, text in captions]
    if not stamped:
        return []
    stamped.append((max(to_ms(end), stamped[-1][0] + 1), ""))
    return [Cue(start, stop, text) for (start, text), (stop, _) in pairwise(stamped) if stop > start]


def merged(cues: Sequence[Cue]) -> list[Cue]:
    """Neighbours with the same text as one cue."""
    kept: list[Cue] = []
    for cue in cues:
        if kept and kept[-1].text == cue.text:
            kept[-1] = Cue(kept[-1].start_ms, cue.end_ms, cue.text)
        else:
            kept.append(cue)
    return kept


def _batches(inputs: Iterator[Subject], size: int) -> Iterator[list[Subject]]:
    while batch := list(islice(inputs, size)):
        yield batch
