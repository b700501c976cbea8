"""`GatewayStreams`: all streams of the cluster, for the HTTP service of one node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from streamcap.captions.caption import Caption
from streamcap.captions.event import Event, Extend, Status, StreamState
from streamcap.captions.event_log import EventLog
from streamcap.captions.hub import Hub, UnknownStreamError
from streamcap.captions.track import CaptionTrack
from streamcap.cluster.assignment.nodes import NodeDirectory
from streamcap.cluster.assignment.registry import StreamChangedError, StreamConfig, StreamRegistry
from streamcap.cluster.jetstream.connection import ClusterError
from streamcap.cluster.log.ownership import LogEntry
from streamcap.engine.served_model import ServedModel, ServedModels
from streamcap.engine.statistics import EngineStatistics
from streamcap.errors import InputError
from streamcap.media.frame import Frame
from streamcap.media.sources import check_url
from streamcap.media.sources.address import HostScope
from streamcap.media.sources.push import PushSource
from streamcap.redact import redact
from streamcap.streams.options import StreamOptions, check_name
from streamcap.streams.settings import StreamSettings
from streamcap.streams.snapshot import StreamSnapshot
from streamcap.streams.stream import Stream
from streamcap.streams.stream_deps import StreamDeps
from streamcap.streams.stream_set import (
    DEFAULT_SETTINGS,
    DuplicateStreamError,
    NotReadyError,
    StreamSet,
    TooManyStreamsError,
    name_from_url,
)

MAX_STREAMS = 100_000
MAX_AHEAD = 65_536
"""How far `since` may be beyond the newest event of this gateway: another one may have been faster."""
START_SECONDS = 5.0
PUT_ATTEMPTS = 10
PUT_PAUSE_SECONDS = 0.1


def _named(name: str) -> ServedModel:
    """A model of which this node knows the name only."""
    return ServedModel(name, name, None, lambda frames: (_ for _ in ()).throw(AssertionError("never converted")))


class _AnyModel(ServedModels):
    """The models are with the nodes that run the streams."""

    def get(self, name: str | None) -> ServedModel:
        return super().get(None) if name is None else _named(name)


class GatewayStream(Stream):
    """A stream of the cluster, as this node sees it: its captions come from the log. It is never run here; if this node
    owns the stream, `local` finds the one that runs."""

    def __init__(
        self,
        config: StreamConfig,
        deps: StreamDeps,
        local: Callable[[], Stream | None],
        url_of: Callable[[str], str | None],
    ) -> None:
        super().__init__(config.name, config.url, config.settings, deps)
        self.config = config
        self.owner = ""
        """Node that wrote the newest message of the log."""
        self.term = 0
        self.feed = EventLog(config.name, keep=deps.options.replay_events)
        self.final_count = 0
        self.extend_count = 0
        self._epoch = 0
        self._local = local
        self._url_of = url_of
        self._captions = CaptionTrack(config.name, every=self.every, window=deps.options.subtitle_window)

    @property
    def track(self) -> CaptionTrack:
        return self._captions

    @property
    def state(self) -> StreamState:
        return self.feed.state

    def elsewhere(self) -> str | None:
        return None if self._local() is not None else self._url_of(self.owner) or self.owner or "no node"

    def follow(self, config: StreamConfig) -> None:
        """The configuration has changed."""
        self.config, self.settings, self.url = config, config.settings, redact(config.url)
        self._secret_url = config.url

    def apply(self, entry: LogEntry, events: list[Event]) -> None:
        """Follow one message of the log."""
        self.owner, self.term = entry.node, entry.term
        for event in events:
            self._captions.apply(event.payload)
            match event.payload:
                case Caption() as caption:
                    self.final_count += 1
                    self._epoch = caption.epoch
                case Extend():
                    self.extend_count += 1

    def view(self) -> StreamSnapshot:
        """The owner's snapshot if that is this node; else one made from the log."""
        local = self._local()
        snapshot = super().view() if local is None else local.view()
        last, status = self.track.last, self.feed.status
        shown = replace(
            snapshot, url=self.url, state=self.state.value, captions=self.final_count, extended=self.extend_count,
            last_caption=None if last is None else last.as_json(), epoch=self._epoch,
        )  # fmt: skip
        if status is not None and isinstance(status.payload, Status):
            shown = replace(shown, reason=status.payload.reason)
        elif local is None:
            shown = replace(shown, reason="no node runs this stream yet")
        return shown

    def newest_frame(self) -> Frame | None:
        local = self._local()
        return None if local is None else local.newest_frame()

    def watch(self) -> None:
        local = self._local()
        if local is not None:
            local.watch()

    def unwatch(self) -> None:
        local = self._local()
        if local is not None:
            local.unwatch()

    def push_source(self) -> PushSource | None:
        local = self._local()
        return None if local is None else local.push_source()


class GatewayStreams(StreamSet):
    """The streams in the registry. Changes are made there; owners follow. All methods run on the event loop.

    Parameters:
        node: this node's id.
        local: finds a stream that this node runs.
        model: name of the default model, for `GET /streams`.
        runs_streams: whether this node has the role ingest, so that it can take WHIP publishers.
    """

    def __init__(
        self,
        options: StreamOptions,
        hub: Hub,
        registry: StreamRegistry,
        nodes: NodeDirectory,
        node: str,
        *,
        local: Callable[[str], Stream | None],
        model: str,
        runs_streams: bool,
    ) -> None:
        super().__init__(options, hub)
        hub.max_ahead = MAX_AHEAD
        self._registry = registry
        self._nodes = nodes
        self._node = node
        self._local = local
        self._runs_streams = runs_streams
        self._shown: dict[str, GatewayStream] = {}
        self._gateway_deps = StreamDeps(
            options=replace(options, out=None),
            hub=hub,
            open_source=lambda url, scope: (_ for _ in ()).throw(AssertionError("never opened")),
            models=_AnyModel([_named(model)], model),
            submit=lambda sample: None,
        )
        self.begin(self._gateway_deps, forget=lambda name: None, engine=EngineStatistics())
        registry.observers.append(self._on_change)

    # -- events of the logs

    def begin_feed(self, name: str, next_seq: int) -> bool:
        """The log of stream `name` has messages, the first of them with number `next_seq`. False: no such stream."""
        stream = self._find(name)
        if stream is None:
            return False
        if stream.feed.last_seq == 0 and next_seq > 1:
            stream.feed.refill([], next_seq)
        return True

    def apply(self, name: str, entry: LogEntry, events: list[Event]) -> None:
        stream = self._find(name)
        if stream is not None:
            stream.apply(entry, events)

    # -- as StreamSet

    def names(self) -> list[str]:
        return list(self._shown)

    def runs(self, name: str) -> bool:
        return self._local(name) is not None

    def __len__(self) -> int:
        return len(self._shown)

    @property
    def dropped_finals(self) -> int:
        return 0

    def get(self, name: str) -> GatewayStream:
        stream = self._find(name)
        if stream is None:
            raise UnknownStreamError(f"no stream is named {name[:80]!r}; there are {len(self)}: see GET /streams")
        return stream

    async def add(
        self,
        name: str | None,
        url: str,
        settings: StreamSettings = DEFAULT_SETTINGS,
        *,
        keep_failed: bool = False,
        scope: HostScope = HostScope.ANY,
    ) -> GatewayStream:
        """Offer a stream to the nodes of this site. Raises InputError, ClusterError."""
        if not self.ready:
            raise NotReadyError("the node is starting; retry in a moment")
        url = check_url(url)
        name = self._free_name(url) if name is None else check_name(name)
        if len(self) >= MAX_STREAMS:
            raise TooManyStreamsError(f"the cluster already has {len(self)} streams, its maximum")
        pushed = url.startswith("whip:")
        if pushed and not self._runs_streams:
            raise InputError(f"node {self._node} runs no streams: publish to a node with the role ingest")
        node = self._node if pushed else ""
        config = StreamConfig(name, url, settings, self._site, node=node, scope=scope)
        await self._registry.add(config)
        if pushed:
            await self._until_local(name)
        return self.get(name)

    async def put(self, name: str, url: str, settings: StreamSettings, *, scope: HostScope = HostScope.ANY) -> None:
        """As `StreamSet.put`. Nodes that share a file call this at the same time: the later ones find it done."""
        url = check_url(url)
        for attempt in range(PUT_ATTEMPTS):
            config = self._registry.streams.get(name)
            try:
                if config is None:
                    await self.add(name, url, settings, scope=scope)
                elif (config.url, config.settings, config.scope) != (url, settings, scope):
                    await self._registry.change(replace(config, url=url, settings=settings, scope=scope))
            except (DuplicateStreamError, StreamChangedError):
                if attempt == PUT_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(PUT_PAUSE_SECONDS)
            else:
                return

    async def adopt(self, name: str) -> GatewayStream:
        """A WHIP stream belongs to the node that its publisher reached: move it here, unless it is live elsewhere.

        Raises DuplicateStreamError, ClusterError, UnknownStreamError.
        """
        stream = self.get(name)
        if stream.elsewhere() is None:
            return stream
        if not self._runs_streams:
            raise InputError(f"node {self._node} runs no streams: publish to a node with the role ingest")
        if stream.state is StreamState.LIVE and self._nodes.find(stream.config.node) is not None:
            raise DuplicateStreamError(f"stream {name} has a publisher at node {stream.config.node}")
        await self._registry.change(replace(stream.config, node=self._node))
        await self._until_local(name)
        return stream

    async def _until_local(self, name: str) -> None:
        try:
            async with asyncio.timeout(START_SECONDS):
                while self._local(name) is None:  # noqa: ASYNC110 - rare: a publisher that starts a stream
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise ClusterError(f"stream {name} did not start on this node; retry in a moment") from None

    async def remove(self, name: str) -> None:
        await self._registry.remove(name)

    async def update(self, name: str, settings: StreamSettings) -> GatewayStream:
        return await self.replace(name, settings=settings)

    async def replace(
        self,
        name: str,
        *,
        url: str | None = None,
        settings: StreamSettings | None = None,
        scope: HostScope = HostScope.ANY,
    ) -> GatewayStream:
        config = self.get(name).config
        changed = replace(
            config,
            url=config.url if url is None else check_url(url),
            scope=config.scope if url is None else scope,
            settings=config.settings if settings is None else settings,
        )
        await self._registry.change(changed)
        return self.get(name)

    async def close(self) -> None:
        self.ready = False
        self.hub.close("the service is stopping")

    # -- parts

    @property
    def _site(self) -> str:
        return self._registry.site

    def _url_of(self, node: str) -> str | None:
        info = self._nodes.find(node)
        return None if info is None else info.url or None

    def _on_change(self, name: str) -> None:
        config, stream = self._registry.streams.get(name), self._shown.get(name)
        if config is None:
            if stream is not None:
                del self._shown[name]
                self.hub.remove(name)
        elif stream is None:
            self._find(name)
        else:
            stream.follow(config)

    def _find(self, name: str) -> GatewayStream | None:
        stream = self._shown.get(name)
        if stream is None:
            config = self._registry.streams.get(name)
            if config is None:
                return None
            deps, local = self._gateway_deps, lambda: self._local(name)
            stream = self._shown[name] = GatewayStream(config, deps, local, self._url_of)
            self.hub.add(stream.feed)
        return stream

    def _free_name(self, url: str) -> str:
        stem = name_from_url(url)
        if stem not in self._registry.streams:
            return stem
        return next(name for number in range(2, 10_000) if (name := f"{stem}-{number}") not in self._registry.streams)
