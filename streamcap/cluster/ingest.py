"""`Ingest`: decodes and captions the streams that JetStream assigns to this node, and hands them over in order."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

from streamcap.captions.event import StreamState
from streamcap.captions.hub import UnknownStreamError
from streamcap.cluster.assignment.assigned_streams import AssignedStreams
from streamcap.cluster.assignment.balance import NodeLoad
from streamcap.cluster.assignment.nodes import NodeDirectory, NodeInfo
from streamcap.cluster.assignment.registry import StreamConfig, StreamRegistry
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.subjects import INGEST_QUEUE
from streamcap.cluster.log.live_feed import LiveFeed
from streamcap.cluster.log.write_statistics import WriteStatistics
from streamcap.cluster.log.writer import LogWriter
from streamcap.streams.stream_set import StreamSet

log = logging.getLogger(__name__)

STUCK_SECONDS = 0.5
HANDOVER = "moving to another node"


class Ingest(AssignedStreams):
    """The streams that this node owns.

    Parameters:
        streams: runs the streams; its store must come from `open_store`.
        cpu: the share of the machine's CPUs in use.
    """

    def __init__(
        self,
        connection: Connection,
        node: str,
        streams: StreamSet,
        registry: StreamRegistry,
        nodes: NodeDirectory,
        live: LiveFeed,
        *,
        cpu: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__(connection, node, INGEST_QUEUE, registry, nodes, cpu=cpu)
        self.writers: dict[str, LogWriter] = {}
        self.writes = WriteStatistics()
        """Of all streams."""
        self._streams = streams
        self._live = live

    def open_store(self, name: str) -> LogWriter:
        """The store of a stream's publisher."""
        writer = LogWriter(self._connection, name, self.node, self.on_lost, self.writes)
        self.writers[name] = writer
        self._live.add(name, writer)
        return writer

    def on_dropped(self, name: str) -> None:
        self.writers.pop(name, None)
        self._live.remove(name)

    async def start_stream(self, config: StreamConfig) -> None:
        await self._streams.add(config.name, config.url, config.settings, scope=config.scope)
        log.info("stream %s: this node runs it", config.name)

    async def stop_stream(self, name: str, *, moves: bool) -> None:
        with contextlib.suppress(UnknownStreamError):
            if moves:
                self._streams.get(name).stop_status = (StreamState.RECONNECTING, HANDOVER)
            await self._streams.remove(name)

    async def change_stream(self, before: StreamConfig, config: StreamConfig) -> None:
        name = config.name
        if name not in self._streams.names():
            return
        if before.url == config.url and before.settings != config.settings:
            self._streams.change(name, config.settings)
        else:
            await self._streams.replace(name, url=config.url, settings=config.settings, scope=config.scope)

    def load_of(self, info: NodeInfo) -> NodeLoad:
        return info.load

    def is_assigned(self, config: StreamConfig) -> bool:
        return not config.node

    def report(self, name: str) -> bool:
        writer = self.writers.get(name)
        if writer is None:
            return True
        may_report = writer.report()
        if writer.must_confirm and name in self._streams.names():
            self._streams.get(name).publisher.confirm()
        return may_report

    def is_lost(self, name: str) -> bool:
        writer = self.writers.get(name)
        return writer is not None and writer.is_lost

    def is_stuck(self) -> bool:
        """Whether JetStream does not answer."""
        return self.longest_write >= STUCK_SECONDS

    @property
    def longest_write(self) -> float:
        """Seconds since the oldest write began that has no answer; 0: there is none."""
        now = time.monotonic()
        waits = (self.writers[name].waits_since for name in self.owned if name in self.writers)
        return max((now - since for since in waits if since is not None), default=0.0)

    @property
    def finals_waiting(self) -> int:
        """Finals of all streams that wait for JetStream."""
        return sum(self._streams.get(name).publisher.waiting_finals for name in self._streams.names())

    def on_other_change(self, config: StreamConfig | None) -> None:
        if config is not None and config.node == self.node and not self.draining:
            self._take(config.name, None)
