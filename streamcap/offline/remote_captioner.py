"""`RemoteFileCaptioner`: captions files through a server, as `FileCaptioner` does with a local model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from streamcap.engine.model_settings import ModelSettings
from streamcap.engine.remote.clean_answer import clean_answer
from streamcap.engine.remote.client import RemoteClient
from streamcap.engine.remote.failure import LASTING_PAUSE_S, RemoteError
from streamcap.engine.remote.remote_model import to_jpeg
from streamcap.engine.remote.request import JpegImage, body
from streamcap.errors import InputError
from streamcap.media.files.image_file import open_image, upright
from streamcap.offline.file_captioner import ImageItem, VideoMoment

if TYPE_CHECKING:
    from PIL.Image import Image

    from streamcap.media.files.animation import AnimatedImage
    from streamcap.media.files.video_file import VideoFile

Subject = TypeVar("Subject")
ATTEMPTS = 4
MIN_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class RemoteResult:
    """As `captioner.Result`; a server gives only the text."""

    text: str
    logprob: None = None
    confidence: None = None


class RemoteFileCaptioner:
    """Captions any number of files, `in_flight` at a time. Raises RemoteError if the server fails repeatedly."""

    clip_length: int | None = None

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._runner = asyncio.Runner()
        self._client = RemoteClient(settings)

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def images(
        self, paths: Iterable[Path], *, keep: bool = False, on_bad: Callable[[Path, InputError], None]
    ) -> Iterator[tuple[ImageItem, RemoteResult]]:
        """As `FileCaptioner.images`."""

        def items() -> Iterator[tuple[ImageItem, bytes]]:
            for path in paths:
                try:
                    image = open_image(path)
                except InputError as error:
                    on_bad(path, error)
                    continue
                yield ImageItem(path, image if keep else None), self._request(image)

        return self._captions(items())

    def video(
        self, video: VideoFile | AnimatedImage, windows: Sequence[Sequence[int]], *, keep: bool = False
    ) -> Iterator[tuple[VideoMoment, RemoteResult]]:
        """As `FileCaptioner.video`."""

        def items() -> Iterator[tuple[VideoMoment, bytes]]:
            for frame in video.frames(sorted({window[0] for window in windows})):
                moment = VideoMoment(frame.seconds, (frame,) if keep else ())
                yield moment, self._request(upright(frame.video_frame, frame.sample_aspect))

        return self._captions(items())

    def _request(self, image: Image) -> bytes:
        small = image.convert("RGB")
        small.thumbnail((self._settings.image_size, self._settings.image_size))
        jpeg = to_jpeg(np.asarray(small), self._settings.jpeg_quality)
        return body(self._settings, [JpegImage(jpeg, 0.0)])

    def _captions(self, items: Iterator[tuple[Subject, bytes]]) -> Iterator[tuple[Subject, RemoteResult]]:
        while batch := list(islice(items, self._settings.in_flight)):
            texts = self._runner.run(self._ask_all([request for _, request in batch]))
            for (subject, _), text in zip(batch, texts, strict=True):
                yield subject, RemoteResult(text)

    async def _ask_all(self, requests: list[bytes]) -> list[str]:
        return await asyncio.gather(*map(self._ask, requests))

    async def _ask(self, request: bytes) -> str:
        for attempt in range(ATTEMPTS):
            try:
                text = clean_answer((await self._client.ask(request)).text)
                if text:
                    return text
                error = RemoteError("the answer has no caption")
            except RemoteError as failure:
                error = failure
            pause = MIN_PAUSE_S * 2**attempt if error.pause is None else error.pause
            if attempt == ATTEMPTS - 1 or pause >= LASTING_PAUSE_S:
                break
            await asyncio.sleep(pause)
        raise RemoteError(f"{self._settings.model}: {error.reason}")
