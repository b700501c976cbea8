"""Sources and an engine for tests, which control what happens when."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from av import VideoFrame

from streamcap.captions.hub import Hub
from streamcap.captions.subscription import SubscribeOptions
from streamcap.engine.outcome import Captioned, Outcome, Times
from streamcap.engine.served_model import ServedModel, ServedModels
from streamcap.engine.statistics import EngineStatistics
from streamcap.errors import StreamcapError
from streamcap.media.demand import FrameChoice
from streamcap.media.frame import Frame, Pixels, Sample
from streamcap.media.sources.address import HostScope
from streamcap.media.sources.base import Source, SourceInfo
from streamcap.streams.options import StreamOptions
from streamcap.streams.stream_deps import StreamDeps
from streamcap.streams.stream_set import StreamSet
from testbed.timeouts import TIMEOUT_FACTOR

URL = "rtsp://admin:hunter2@cam/live"

TIME_BASE = Fraction(1, 1000)


def frame(seconds: float, epoch: int = 0, gray: int = 100, picture: VideoFrame | None = None) -> Frame:
    now = time.monotonic()
    return Frame(
        video_frame=picture or VideoFrame.from_ndarray(np.full((16, 16, 3), gray, np.uint8), format="rgb24"),
        pts=round(seconds * 1000),
        time_base=TIME_BASE,
        time=seconds,
        epoch=epoch,
        arrived=now,
        captured_at=time.time(),
        captured_at_source="arrival",
    )


class MadeSource(Source):
    """Yields or raises what the test puts."""

    def __init__(self, url: str, opens: StreamcapError | None = None) -> None:
        self.url = url
        self.opens = opens
        self.closed = 0
        self.skipped: float | None = None
        self.choice = FrameChoice()
        self._items: queue.Queue[Frame | Exception | None] = queue.Queue()

    def put(self, item: Frame | Exception | None) -> None:
        self._items.put(item)

    def open(self) -> SourceInfo:
        if self.opens is not None:
            raise self.opens
        return SourceInfo(16, 16, 25.0, "made", live=True)

    def frames(self) -> Iterator[Frame]:
        while (item := self._items.get(timeout=TIMEOUT_FACTOR)) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def stop(self) -> None:
        self._items.put(None)

    def close(self) -> None:
        self.closed += 1

    def skipped_at(self) -> float | None:
        return self.skipped

    def frame_choice(self) -> FrameChoice:
        return self.choice

    def statistics(self) -> dict[str, int]:
        return {"decoded": 1}


class FakeService:
    """A set of streams with fake sources, and an engine that captions at once on the source's thread."""

    def __init__(
        self,
        out: Path | None = None,
        *,
        clip_length: int | None = None,
        models: Sequence[str] = ("fast",),
        **options: float,
    ) -> None:
        self.sources: list[MadeSource] = []
        self.refusals: list[StreamcapError] = []
        self.forgotten: list[str] = []
        self.samples: list[Sample] = []
        self.delay = 0.0
        """Seconds that the engine needs."""
        self.hub = Hub(time.monotonic, time.time)
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        options = {"min_retry_delay": 0.01, "max_retry_delay": 0.02, **options}
        checked = StreamOptions(out=out, **options)  # type: ignore[arg-type]
        self.streams = StreamSet(checked, self.hub)
        self.streams.begin(
            StreamDeps(
                options=checked,
                hub=self.hub,
                open_source=self._open,
                models=ServedModels([self._model(name, clip_length) for name in models], models[0]),
                submit=self._caption,
            ),
            forget=self.forgotten.append,
            engine=EngineStatistics(),
        )
        self.messages: list[dict[str, Any]] = []
        self._subscription = self.hub.subscribe(SubscribeOptions(), self._changed.set)

    def _open(self, url: str, _scope: HostScope) -> MadeSource:
        source = MadeSource(url, self.refusals.pop(0) if self.refusals else None)
        self.sources.append(source)
        return source

    @classmethod
    def _model(cls, name: str, clip_length: int | None) -> ServedModel:
        return ServedModel(name, f"model {name}", clip_length, lambda frames: cls._pixels(frames, clip_length))

    @staticmethod
    def _pixels(frames: list[Frame], clip_length: int | None) -> Pixels:
        pixels = np.stack([f.video_frame.to_ndarray(format="rgb24") for f in frames])
        return pixels[0] if clip_length is None else pixels

    def _caption(self, sample: Sample) -> None:
        self.samples.append(sample)
        now = time.monotonic()
        outcome: Outcome = Captioned(sample, f"grey {sample.pixels.reshape(-1)[0]}", -0.5, Times(now, now, now))
        if self.delay:
            self._loop.call_soon_threadsafe(self._loop.call_later, self.delay, self.streams.dispatch, [outcome])
        else:
            self._loop.call_soon_threadsafe(self.streams.dispatch, [outcome])

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is checked after each message, and as not all it may ask is told by one,
        every 10 ms."""
        async with asyncio.timeout(TIMEOUT_FACTOR):
            while not condition():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 0.01)
                self._changed.clear()
                self.messages += [json.loads(text) for text in self._subscription.take()]

    def of(self, kind: str, stream: str | None = None) -> list[dict[str, Any]]:
        """The messages of one type so far."""
        return [m for m in self.messages if m["type"] == kind and stream in (None, m["stream"])]

    def states(self, stream: str) -> list[str]:
        return [str(m["state"]) for m in self.of("status", stream)]


async def live(service: FakeService, name: str = "door", url: str = URL) -> None:
    before, captions = len(service.sources), len(service.of("caption", name))
    await service.streams.add(name, url)
    await wait_sources(service, before + 1)
    service.sources[-1].put(frame(0.0))
    await service.until(lambda: len(service.of("caption", name)) == captions + 1)


async def wait_sources(service: FakeService, count: int) -> None:
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while len(service.sources) < count:
            await asyncio.sleep(0.005)
