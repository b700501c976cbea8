"""`AnimationSource`: an animated WebP file, which libav does not play, in real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from streamcap.errors import InputError
from streamcap.media.files.animation import AnimatedImage
from streamcap.media.frame import Frame
from streamcap.media.sources.base import Source, SourceEnded, SourceInfo, SourceRefused
from streamcap.media.sources.options import SourceOptions
from streamcap.media.sources.pacer import Pacer
from streamcap.media.sources.url import file_path
from streamcap.redact import redact


class AnimationSource(Source):
    """Plays the file once. Frame n has the time that its predecessors' durations give."""

    def __init__(
        self,
        url: str,
        options: SourceOptions,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.url = redact(url)
        self._path = file_path(url)
        self._options = options
        self._monotonic = monotonic
        self._wall = wall
        self._stopping = threading.Event()
        self._animation: AnimatedImage | None = None
        self._frames = 0

    def open(self) -> SourceInfo:
        try:
            animation = self._animation = AnimatedImage(self._path)
        except InputError as error:
            raise SourceRefused(str(error), retry=False) from None
        count = len(animation.index.pts)
        if count < 2:
            raise SourceRefused(f"{self.url}: an image, not a video; use `streamcap caption`", retry=False)
        if animation.width * animation.height > self._options.max_pixels:
            limit = f"{self._options.max_pixels / 1e6:g} megapixels"
            size = f"{animation.width}×{animation.height}"
            raise SourceRefused(f"{self.url}: its frames are {size}, above the limit of {limit}", retry=False)
        rate = count / animation.index.duration
        return SourceInfo(animation.width, animation.height, rate, "webp", live=False)

    def frames(self) -> Iterator[Frame]:
        animation = self._animation
        if animation is None:
            raise SourceEnded(f"{self.url}: not open")
        pacer = Pacer(self._monotonic) if self._options.realtime else None
        try:
            for chosen in animation.frames(range(len(animation.index.pts))):
                due_in = 0.0 if pacer is None else pacer.wait(0, chosen.seconds)
                if self._stopping.wait(due_in):
                    return
                self._frames += 1
                yield Frame(
                    video_frame=chosen.video_frame,
                    pts=animation.index.pts[chosen.ordinal],
                    time_base=animation.index.time_base,
                    time=chosen.seconds,
                    epoch=0,
                    arrived=self._monotonic(),
                    captured_at=self._wall(),
                    captured_at_source="arrival",
                )
        except InputError as error:
            raise SourceEnded(f"{self.url}: it breaks off: {error}") from None
        raise SourceEnded(f"{self.url}: it was played to its end")

    def stop(self) -> None:
        self._stopping.set()

    def close(self) -> None:
        self._stopping.set()

    def statistics(self) -> dict[str, int]:
        return dict.fromkeys(("decode_errors", "repaired_pts", "epochs", "dropped", "skipped"), 0) | {
            "frames": self._frames
        }
