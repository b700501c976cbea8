"""`StreamSet`: all streams, their tasks, and the delivery of engine outcomes to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from streamcap.captions.hub import Hub, UnknownStreamError
from streamcap.engine.outcome import Outcome
from streamcap.engine.statistics import EngineStatistics
from streamcap.errors import InputError, StreamcapError
from streamcap.media.sources import check_url
from streamcap.media.sources.address import HostScope
from streamcap.streams.counters import Counters
from streamcap.streams.options import StreamOptions, check_name
from streamcap.streams.overload import OverloadDetector
from streamcap.streams.settings import StreamSettings
from streamcap.streams.stream import Stream
from streamcap.streams.stream_deps import StreamDeps

log = logging.getLogger(__name__)

CLOSE_SECONDS = 3.0
LOAD_CHECK_SECONDS = 1.0
# Counters kept of removed streams. Policy when full: forget the stream that was removed first.
NAMES_KEPT = 1024
DEFAULT_SETTINGS = StreamSettings()


class DuplicateStreamError(InputError):
    """A stream of that name exists, or is being removed."""


class StreamRemovedError(InputError):
    """The stream was removed while it was being added."""


class TooManyStreamsError(InputError):
    """The service has `max_streams` streams."""


class NotReadyError(StreamcapError):
    """The model is still loading."""


class StreamSet:
    """Add, find and remove streams of a running service. All methods run on the event loop."""

    def __init__(self, options: StreamOptions, hub: Hub) -> None:
        self.hub = hub
        self.options = options
        self.ready = False
        """Whether the model is loaded, the engine runs, and the streams of the command line are added."""
        self.engine = EngineStatistics()
        """The engine's counters."""
        self.overload = OverloadDetector(time.monotonic)
        self.loop_delay = 0.0
        """Seconds by which the event loop was late in the last LOAD_CHECK_SECONDS."""
        self._deps: StreamDeps | None = None
        self._forget: Callable[[str], None] = lambda name: None
        self._streams: dict[str, Stream] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._counters: dict[str, Counters] = {}
        self._dropped_finals = 0  # of removed streams

    def begin(self, deps: StreamDeps, *, forget: Callable[[str], None], engine: EngineStatistics) -> None:
        """The model is loaded: streams can be added from now on."""
        self._deps, self._forget, self.engine = deps, forget, engine

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models; empty while they are loading."""
        return () if self._deps is None else self._deps.models.names

    def names(self) -> list[str]:
        return list(self._streams)

    def runs(self, name: str) -> bool:
        """Whether stream `name` runs in this process."""
        return name in self._streams

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def dropped_finals(self) -> int:
        """Finals that no viewer received, because a disk failed or hung; all streams since the start."""
        return self._dropped_finals + sum(stream.publisher.dropped_finals for stream in self._streams.values())

    def get(self, name: str) -> Stream:
        """Raises UnknownStreamError."""
        try:
            return self._streams[name]
        except KeyError:
            known = ", ".join(self._streams) or "none"
            raise UnknownStreamError(f"no stream is named {name[:80]!r}; there are: {known}") from None

    async def add(
        self,
        name: str | None,
        url: str,
        settings: StreamSettings = DEFAULT_SETTINGS,
        *,
        scope: HostScope = HostScope.ANY,
        keep_failed: bool = False,
    ) -> Stream:
        """Start captioning `url`; without a `name`, one is made from the URL.

        scope: the hosts that the source may connect to. keep_failed: a stream whose files cannot be used stays in the
        set, as `failed`. Raises InputError, NotReadyError.
        """
        if self._deps is None:
            raise NotReadyError("the model is loading; retry in a moment")
        url = check_url(url)
        name = self._free_name(url) if name is None else check_name(name)
        if name in self._streams:
            raise DuplicateStreamError(f"stream {name} already exists; choose another name")
        if len(self._streams) >= self.options.max_streams:
            raise TooManyStreamsError(f"the service already has {len(self._streams)} streams, its maximum")
        self._check_model(settings)
        stream = Stream(name, url, settings, self._deps, self._counters.get(name), scope=scope)
        # Claim the name before the first await, so that two requests cannot both take it.
        self._streams[name] = stream
        try:
            await stream.prepare()
        except OSError as error:
            reason = f"cannot use the files of stream {name}: {error}"
            if keep_failed and self._streams.get(name) is stream:
                stream.fail(reason)
                await stream.unlock()
                return stream
            self._release_name(stream)
            await stream.unlock()
            raise InputError(reason) from error
        except BaseException:  # on cancellation too, free the name
            self._release_name(stream)
            await stream.unlock()
            raise
        if self._streams.get(name) is not stream:
            await stream.unlock()
            raise StreamRemovedError(f"stream {name} was removed before it started; retry")
        stream.register()
        task = asyncio.create_task(stream.run(), name=f"stream-{name}")
        task.add_done_callback(log_failure)
        self._tasks[name] = task
        return stream

    async def remove(self, name: str) -> None:
        """Stop a stream and close its last cue and its files, which stay. Raises UnknownStreamError."""
        stream = self.get(name)
        await _end([self._tasks[name]] if name in self._tasks else [])
        await self._unlock_if_never_run(stream)
        if self._streams.get(name) is not stream:
            return  # another call removed it, and may have added a new one
        self._release_name(stream)
        self._tasks.pop(name, None)
        self._forget(name)
        self.hub.remove(name)
        self._dropped_finals += stream.publisher.dropped_finals
        self._counters.pop(name, None)
        self._counters[name] = stream.counters()
        while len(self._counters) > NAMES_KEPT:
            del self._counters[next(iter(self._counters))]

    def change(self, name: str, settings: StreamSettings) -> Stream:
        """Change the settings of a running stream. Camera and viewers stay connected; frames and numbers continue.

        Raises UnknownStreamError, InputError.
        """
        stream = self.get(name)
        self._check_model(settings)
        stream.change(settings)
        return stream

    def set_options(self, options: StreamOptions) -> None:
        """Use other defaults of all streams, from the next frame on; cameras stay connected."""
        self.options = options
        if self._deps is not None:
            self._deps.options = options
        for stream in self._streams.values():
            stream.change(stream.settings)

    async def put(self, name: str, url: str, settings: StreamSettings, *, scope: HostScope = HostScope.ANY) -> None:
        """Make the stream so, whatever it is now: added, with other settings, or restarted with another URL.

        Raises as `add`.
        """
        if name not in self.names():
            await self.add(name, url, settings, keep_failed=True, scope=scope)
        elif self.get(name).source_url == url:
            await self.update(name, settings)
        else:
            await self.replace(name, url=url, settings=settings, scope=scope)

    async def adopt(self, name: str) -> Stream:
        """The stream whose publisher has come to this machine; where others may run it, it moves here."""
        return self.get(name)

    async def update(self, name: str, settings: StreamSettings) -> Stream:
        """As `change`, for callers that can wait: where other machines run the stream, that takes a moment."""
        return self.change(name, settings)

    async def replace(
        self,
        name: str,
        *,
        url: str | None = None,
        settings: StreamSettings | None = None,
        scope: HostScope = HostScope.ANY,
    ) -> Stream:
        """Restart a stream, with another URL or other settings if given; its numbers continue.

        If its files cannot be used now, it stays in the set, as `failed`. scope: of another URL; the old one keeps its
        own. Raises as `add`, UnknownStreamError.
        """
        old = self.get(name)
        scope = old.scope if url is None else scope
        url = check_url(old.source_url if url is None else url)
        settings = old.settings if settings is None else settings
        self._check_model(settings)
        await self.remove(name)
        return await self.add(name, url, settings, scope=scope, keep_failed=True)

    async def close(self) -> None:
        """Stop all streams within CLOSE_SECONDS. Idempotent."""
        self.ready = False
        await _end(list(self._tasks.values()))
        for stream in list(self._streams.values()):
            await self._unlock_if_never_run(stream)
        self.hub.close("the service is stopping")

    def dispatch(self, outcomes: Sequence[Outcome]) -> None:
        """Deliver each outcome to its stream; drop those of removed streams."""
        for outcome in outcomes:
            stream = self._streams.get(outcome.sample.stream)
            if stream is None:
                continue
            try:
                stream.publisher.on_outcome(outcome)
            except Exception:  # the other streams' outcomes are in the same list
                log.exception("stream %s: an outcome was lost", stream.name, extra={"stream": stream.name})

    async def _unlock_if_never_run(self, stream: Stream) -> None:
        """A task that is cancelled before its first step runs nothing, not even its `finally`."""
        task = self._tasks.get(stream.name)
        if task is not None and task.done():
            await stream.unlock()

    async def watch_load(self) -> None:
        """Judge the load once a second, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LOAD_CHECK_SECONDS
            await asyncio.sleep(LOAD_CHECK_SECONDS)
            self.loop_delay = max(0.0, loop.time() - due)
            self.overload.note_loop_delay(self.loop_delay)
            self.check_load()

    def check_load(self) -> None:
        """Log when an overload begins or ends; caption less often while there is one."""
        now = time.monotonic()
        loads = [load for stream in self._streams.values() if (load := stream.load(now)) is not None]
        if line := self.overload.update(loads):
            log.warning(line)
        for stream in self._streams.values():
            stream.set_stretch(self.overload.stretch)
            stream.is_machine_slow = self.overload.is_machine_slow

    def _check_model(self, settings: StreamSettings) -> None:
        if self._deps is not None:
            self._deps.models.get(settings.model)

    def _release_name(self, stream: Stream) -> None:
        if self._streams.get(stream.name) is stream:
            del self._streams[stream.name]

    def _free_name(self, url: str) -> str:
        stem = name_from_url(url)
        if stem not in self._streams:
            return stem
        return next(name for number in range(2, 10_000) if (name := f"{stem}-{number}") not in self._streams)


def name_from_url(url: str) -> str:
    """A stream name from a URL: the last part of the path, else the host, else the scheme."""
    parts = urlsplit(url)
    file_name = parts.path.rstrip("/").rpartition("/")[2].rpartition(".")
    for candidate in (file_name[0] or file_name[2], parts.hostname or "", parts.scheme):
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", candidate).strip("-._")[:48]
        if name:
            with contextlib.suppress(InputError):
                return check_name(name)
    return "camera"


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        # Cancel once: a second time would interrupt the clean end.
        if not task.cancelling():
            task.cancel()
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        for task in late:
            log.warning("%s did not end within %g s", task.get_name(), CLOSE_SECONDS)


def log_failure(task: asyncio.Task[None]) -> None:
    """A callback of a task that nobody awaits while the service runs."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed", task.get_name(), exc_info=error)
