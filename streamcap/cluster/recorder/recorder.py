"""`Recorder`: writes caption files of the streams that JetStream assigns to this node."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from nats.errors import Error as NatsError

from streamcap.cluster.assignment.assigned_streams import AssignedStreams
from streamcap.cluster.assignment.balance import NodeLoad
from streamcap.cluster.assignment.nodes import NodeDirectory, NodeInfo
from streamcap.cluster.assignment.registry import StreamConfig, StreamRegistry
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.subjects import LOG_STREAM, RECORDER_QUEUE, name_of
from streamcap.cluster.log.reader import Message, StreamReader
from streamcap.cluster.recorder.options import RecorderOptions
from streamcap.cluster.recorder.recording import Recording, last_sequence
from streamcap.cluster.tasks import run_all
from streamcap.errors import StreamcapError

log = logging.getLogger(__name__)

MAX_STREAMS = 2000
"""Streams that one recorder writes: each has a thread for its disk."""


class Recorder(AssignedStreams):
    """Reads all logs, and writes those of its streams.

    Parameters:
        cpu: the share of the machine's CPUs in use.
    """

    def __init__(
        self,
        connection: Connection,
        node: str,
        options: RecorderOptions,
        registry: StreamRegistry,
        nodes: NodeDirectory,
        *,
        cpu: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__(connection, node, RECORDER_QUEUE, registry, nodes, cpu=cpu)
        self.options = options
        self.recordings: dict[str, Recording] = {}
        self._lost_streams: set[str] = set()
        self._done_finals = self._done_read_again = self._done_skipped = 0

    @property
    def finals(self) -> int:
        """Written by this node since it started."""
        return self._done_finals + sum(recording.finals for recording in self.recordings.values())

    @property
    def read_again(self) -> int:
        """How often messages did not fit the memory, and were read again from the log."""
        return self._done_read_again + sum(recording.read_again for recording in self.recordings.values())

    @property
    def skipped(self) -> int:
        """Messages of the logs that streamcap did not write."""
        return self._done_skipped + sum(recording.skipped for recording in self.recordings.values())

    @property
    def lag_seconds(self) -> float:
        """How long the message has waited that has waited longest to be written."""
        now = time.monotonic()
        waits = (recording.waits_since for recording in self.recordings.values())
        return max((now - since for since in waits if since is not None), default=0.0)

    async def run(self) -> None:
        """Until cancelled."""
        # What was stored before is read for each stream when it is assigned.
        reader = StreamReader(
            self._connection, LOG_STREAM, "sc.cap.*", self._read, after=await last_sequence(self._connection)
        )
        await run_all(reader.run(), self._record(reader.caught_up))

    async def _record(self, following: asyncio.Event) -> None:
        await following.wait()
        await self._registry.ready.wait()
        with contextlib.suppress(NatsError, OSError, TimeoutError, StreamcapError):  # then `_reconcile` does it
            await self._registry.offer_missing(self.site, RECORDER_QUEUE, self.is_assigned)
        await super().run()

    def _read(self, message: Message) -> None:
        recording = self.recordings.get(name_of(message.subject))
        if recording is not None:
            recording.put(message)

    async def start_stream(self, config: StreamConfig) -> None:
        name = config.name
        self._lost_streams.discard(name)
        recording = Recording(self._connection, name, self.node, self.options, self.on_lost)
        self.recordings[name] = recording
        try:
            await recording.open()
        except BaseException:  # also on cancellation: leave no locked file behind
            del self.recordings[name]
            await recording.close(to_end=False)
            raise
        log.info("stream %s: this node records it", name)

    async def stop_stream(self, name: str, *, moves: bool) -> None:
        recording = self.recordings.pop(name, None)
        if recording is not None:
            await recording.close(to_end=not moves and not recording.position.ownership.is_lost)
            self._done_finals += recording.finals
            self._done_read_again += recording.read_again
            self._done_skipped += recording.skipped

    async def change_stream(self, before: StreamConfig, config: StreamConfig) -> None:
        """The files do not depend on it."""

    def load_of(self, info: NodeInfo) -> NodeLoad:
        return NodeLoad(info.id, MAX_STREAMS if "recorder" in info.roles else 0, info.recorded, info.is_closed)

    def is_assigned(self, config: StreamConfig) -> bool:
        return True

    def report(self, name: str) -> bool:
        recording = self.recordings.get(name)
        return recording is None or recording.report()

    def is_lost(self, name: str) -> bool:
        return name in self._lost_streams

    def on_dropped(self, name: str) -> None:
        self._lost_streams.discard(name)

    def on_lost(self, name: str) -> None:
        self._lost_streams.add(name)
        super().on_lost(name)

    def on_other_change(self, config: StreamConfig | None) -> None:
        if config is not None and config.site == self.site and self._registry.ready.is_set() and not self.draining:
            self.spawn(self._offer(config.name), f"offer-{config.name}")

    async def _offer(self, name: str) -> None:
        with contextlib.suppress(StreamcapError):  # then `_reconcile` does it
            await self._registry.offer(name, self.site, RECORDER_QUEUE)
