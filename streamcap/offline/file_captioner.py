"""Captions for images and for selected frames of videos. A thread decodes ahead of the model."""

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
"""Default number of captions of a video; a clip model gives one caption of the whole video, as in its training."""
DEFAULT_BATCH = 16
# One decoded batch in reserve keeps the model busy.
_PREFETCH_BATCHES = 1

Subject = TypeVar("Subject")


@dataclass(frozen=True, slots=True)
class ModelInput(Generic[Subject]):
    """The pixels for one caption, and the item they come from."""

    subject: Subject
    pixels: Pixels
    """uint8 RGB of the model's image size: (H, W, 3), or (T, H, W, 3) for a clip model."""


@dataclass(frozen=True, slots=True)
class ImageItem:
    """An image file."""

    path: Path
    image: Image | None
    """Oriented upright, at full size; None unless requested by `keep`."""


@dataclass(frozen=True, slots=True)
class VideoMoment:
    """A selected frame of a video, or a window of frames for a clip model."""

    seconds: float
    """PTS of the first frame, in seconds."""
    frames: tuple[ChosenFrame, ...]
    """Each frame once, oldest first; empty unless requested by `keep`."""


class FileCaptioner:
    """Captions any number of files with one model and one set of search options. Call it from one thread only.

    Raises InputError if the model's vision tower is missing.
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
            raise InputError(f"batch {batch}: must be at least 1")
        self.clip_length = captioner.clip_length
        self._captioner = captioner
        self._search = search
        self._batch = batch
        self._spec = captioner.image_spec if fit is None else replace(captioner.image_spec, fit=fit)
        # One decoder for all batches: with a fixed seed, captions do not depend on the batch size.
        self._decoder = None if search.beam_size > 1 else captioner.decoder(search, max_rows=batch)

    def images(
        self, paths: Iterable[Path], *, keep: bool = False, on_bad: Callable[[Path, InputError], None]
    ) -> Iterator[tuple[ImageItem, Result]]:
        """Yield each image and its caption, in order.

        keep: return the images too. on_bad: called in the decoding thread for each image that cannot be read.
        """
        return self._captions(self._image_items(paths, keep, on_bad))

    def video(
        self, video: VideoFile | AnimatedImage, windows: Sequence[Sequence[int]], *, keep: bool = False
    ) -> Iterator[tuple[VideoMoment, Result]]:
        """Yield each of `windows` (see `select_frames`) and its caption, in order of time.

        A window without a decodable frame is skipped. keep: return the frames too.
        """
        return self._captions(self._moments(video, windows, keep))

    def _captions(self, inputs: Iterator[ModelInput[Subject]]) -> Iterator[tuple[Subject, Result]]:
        with Prefetcher(_batches(inputs, self._batch), _PREFETCH_BATCHES, "decode") as batches:
            for batch in batches:
                results = self._caption([item.pixels for item in batch])
                for item, result in zip(batch, results, strict=True):
                    yield item.subject, result

    def _caption(self, pixels: list[Pixels]) -> list[Result]:
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
                # For a clip model, a still image is a clip of equal frames.
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
                raise InputError(f"{video.path}: a frame cannot be converted: {error.strerror}") from None
            # The nearest decoded frame replaces a missing one.
            pixels = [converted[min(converted, key=lambda decoded: abs(decoded - ordinal))] for ordinal in window]
            moment = VideoMoment(chosen[0].seconds, tuple(chosen) if keep else ())
            yield ModelInput(moment, pixels[0] if self.clip_length is None else np.stack(pixels))


def select_frames(
    index: VideoIndex, clip_length: int | None, *, frames: int | None = None, every: float | None = None
) -> list[list[int]]:
    """The frames for each caption of a video, as ordinals: one per caption, or `clip_length` for a clip model.

    frames: number of captions, evenly spread; every: seconds between captions. Raises InputError if both are given.
    """
    if frames is not None and every is not None:
        raise InputError("give either the number of captions or the seconds between them, not both")
    if clip_length is None:
        ordinals = index.spread(DEFAULT_FRAMES if frames is None else frames) if every is None else index.every(every)
        return [[ordinal] for ordinal in ordinals]
    if every is None:
        return index.windows(1 if frames is None else frames, clip_length)
    return index.windows_every(every, clip_length)


def to_cues(captions: Sequence[tuple[float, str]], end: float) -> list[Cue]:
    """One cue per caption, from its time to the next caption's; the last one ends at `end`. All times in seconds.

    Of captions within the same millisecond only the last is kept, since a cue must not be empty.
    """
    stamped = [(to_ms(seconds), text) for seconds, text in captions]
    if not stamped:
        return []
    stamped.append((max(to_ms(end), stamped[-1][0] + 1), ""))
    return [Cue(start, stop, text) for (start, text), (stop, _) in pairwise(stamped) if stop > start]


def merged(cues: Sequence[Cue]) -> list[Cue]:
    """Merge neighboring cues of equal text."""
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
