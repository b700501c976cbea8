"""`Ingest`: runs streams that JetStream assigns to this node, and hands them over in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError

from streamcap.captions.event import StreamState
from streamcap.captions.hub import UnknownStreamError
from streamcap.cluster.assignment import Balance, NodeLoad
from streamcap.cluster.connection import Connection
from streamcap.cluster.log.live_feed import LiveFeed
from streamcap.cluster.log.writer import LogWriter
from streamcap.cluster.nodes import NodeDirectory
from streamcap.cluster.ownership import ACK_WAIT_SECONDS, PROGRESS_SECONDS
from streamcap.cluster.registry import StreamConfig, StreamRegistry
from streamcap.cluster.subjects import ASSIGN_STREAM, name_of
from streamcap.cluster.tasks import run_all
from streamcap.errors import StreamcapError
from streamcap.streams.stream_set import StreamSet

log = logging.getLogger(__name__)

FETCH_SECONDS = 1.0
DECIDE_SECONDS = 0.25
STUCK_SECONDS = 0.5
RECONCILE_SECONDS = 10.0
_EXISTS = frozenset({10013, 10105, 10148})
# A stream that cannot be started here is offered to other nodes after this pause.
RETRY_SECONDS = 5.0
DRAIN_AT_ONCE = 16
"""Streams that a draining node stops at a time."""
HANDOVER = "moving to another node"


@dataclass(slots=True)
class Owned:
    """A stream that this node runs."""

    config: StreamConfig | None
    """None: the stream has been removed."""
    message: Msg | None
    """The assignment, unacknowledged; None: a stream that belongs to this node."""
    writer: LogWriter | None = None


class Ingest:
    """The streams that this node owns. `run` is the one task; `drain` ends it in order.

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
        self.node = node
        self.owned: dict[str, Owned] = {}
        self.lost = 0
        """Streams that another node took while this one ran them."""
        self.draining = False
        self._connection = connection
        self._streams = streams
        self._registry = registry
        self._nodes = nodes
        self._live = live
        self._cpu = cpu
        self._balance = Balance(node, time.monotonic)
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: dict[str, asyncio.Lock] = {}
        self._waiting_since: float | None = None
        registry.observers.append(self._on_change)

    def open_store(self, name: str) -> LogWriter:
        """The store of a stream's publisher."""
        writer = LogWriter(self._connection, name, self.node, self._on_lost)
        owned = self.owned.get(name)
        if owned is not None:
            owned.writer = writer
        self._live.add(name, writer)
        return writer

    async def run(self) -> None:
        """Until cancelled."""
        await self._registry.ready.wait()
        await self._nodes.ready.wait()
        await run_all(self._take_streams(), self._report_progress(), self._reconcile())

    async def drain(self, timeout: float) -> None:
        """Hand all streams over: their last captions are stored first. At most `timeout` seconds."""
        self.draining = True
        await self._nodes.report()
        limit = asyncio.Semaphore(DRAIN_AT_ONCE)

        async def hand_over(name: str) -> None:
            async with limit:
                await self._give_back(name)

        tasks = [asyncio.create_task(hand_over(name), name=f"drain-{name}") for name in list(self.owned)]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                log.warning("%d streams were not handed over in order: another node continues after %g s",
                            len(late), ACK_WAIT_SECONDS)  # fmt: skip

    # -- taking

    async def _take_streams(self) -> None:
        while True:
            try:
                await self._pull()
            except (NatsError, OSError, TimeoutError) as error:
                log.debug("assignments: %s; trying again", error)
                await asyncio.sleep(DECIDE_SECONDS)

    async def _pull(self) -> None:
        site = self._connection.options.site
        durable, jetstream = f"ingest-{site}", self._connection.jetstream
        await _add_consumer(jetstream, durable, f"sc.assign.{site}.*")
        subscription = await jetstream.pull_subscribe_bind(durable, ASSIGN_STREAM)
        try:
            while True:
                if self.draining or not self._may_take():
                    self._maybe_give_back()
                    await asyncio.sleep(DECIDE_SECONDS)
                    continue
                with contextlib.suppress(TimeoutError):  # nothing waits
                    for message in await subscription.fetch(1, timeout=FETCH_SECONDS):
                        self._begin(message)
        finally:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

    def _begin(self, message: Msg) -> None:
        name = name_of(message.subject)
        owned = self.owned.get(name)
        if owned is not None:
            # Our reports were lost on their way: it is ours still, under a new reply subject.
            owned.message = message
            return
        config = self._registry.streams.get(name)
        self.owned[name] = Owned(config, message)
        self._spawn(self._start(name), f"start-{name}")

    def _may_take(self) -> bool:
        waiting = 0.0 if self._waiting_since is None else time.monotonic() - self._waiting_since
        return self._balance.may_take(self._loads(), self._total(), cpu=self._cpu(), waiting_s=waiting)

    def _is_stuck(self) -> bool:
        """Whether JetStream does not answer: a stream that stops now could not store its last captions."""
        writers = [owned.writer for owned in self.owned.values() if owned.writer is not None]
        now = time.monotonic()
        return any(w.waits_since is not None and now - w.waits_since >= STUCK_SECONDS for w in writers)

    def _maybe_give_back(self) -> None:
        if self.draining or self._is_stuck() or not self._balance.should_give_back(self._loads(), self._total()):
            return
        newest = next((name for name in reversed(self.owned) if self.owned[name].message is not None), None)
        if newest is not None:
            log.info("stream %s: given back, since this node runs more than its share", newest)
            self._spawn(self._give_back(newest), f"give-back-{newest}")

    def _loads(self) -> list[NodeLoad]:
        site = self._connection.options.site
        return [
            replace(info.load, streams=len(self.owned)) if info.id == self.node else info.load
            for info in self._nodes.nodes
            if info.site == site
        ]

    def _total(self) -> int:
        site = self._connection.options.site
        return sum(config.site == site for config in self._registry.streams.values())

    # -- one stream

    async def _start(self, name: str) -> None:
        """Run a stream that was assigned; give it back if it cannot be started."""
        async with self._lock(name):
            owned = self.owned.get(name)
            if owned is None:
                return
            owned.config = self._registry.streams.get(name)
            if owned.config is None:
                await self._forget(name, owned)
                return
            try:
                config = owned.config
                await self._streams.add(name, config.url, config.settings, scope=config.scope)
            except (StreamcapError, OSError) as error:
                log.warning("stream %s cannot run here: %s", name, error)
                await self._nak(name, owned, RETRY_SECONDS)
                return
            log.info("stream %s: this node runs it", name)

    async def _stop(self, name: str, reason: str) -> None:
        """Stop a stream; what waits is stored first."""
        with contextlib.suppress(UnknownStreamError):
            stream = self._streams.get(name)
            if reason:
                stream.stop_status = (StreamState.RECONNECTING, reason)
            await self._streams.remove(name)

    async def _give_back(self, name: str) -> None:
        async with self._lock(name):
            owned = self.owned.get(name)
            if owned is None:
                return
            await self._stop(name, HANDOVER)
            # Whoever lost the stream must not give back what is another's.
            if owned.writer is not None and owned.writer.taken:
                self.owned.pop(name, None)
            else:
                await self._nak(name, owned)

    async def _nak(self, name: str, owned: Owned, delay: float | None = None) -> None:
        self.owned.pop(name, None)
        if owned.message is not None:
            with contextlib.suppress(NatsError, OSError, TimeoutError):  # then JetStream waits for its timeout
                await owned.message.nak(delay=delay)

    async def _forget(self, name: str, owned: Owned) -> None:
        """The stream was removed: take its message out of the queue."""
        self.owned.pop(name, None)
        if owned.message is not None:
            with contextlib.suppress(NatsError, OSError, TimeoutError):  # then the next node does it
                await owned.message.ack()

    def _on_lost(self, name: str) -> None:
        """Another node has taken the stream: stop at once, and leave the assignment alone."""
        self.lost += 1
        owned = self.owned.get(name)
        if owned is not None:
            self._spawn(self._abandon(name, owned), f"lost-{name}")

    async def _abandon(self, name: str, owned: Owned) -> None:
        async with self._lock(name):
            if self.owned.get(name) is owned:
                await self._stop(name, "")
                self.owned.pop(name, None)

    # -- what changes

    def _on_change(self, name: str) -> None:
        config, owned = self._registry.streams.get(name), self.owned.get(name)
        if owned is None:
            if config is not None and config.node == self.node and not self.draining:
                self.owned[name] = Owned(config, None)
                self._spawn(self._start(name), f"start-{name}")
        elif config != owned.config:
            self._spawn(self._apply(name), f"change-{name}")

    async def _apply(self, name: str) -> None:
        """Follow the configuration of a stream that this node runs."""
        async with self._lock(name):
            config, owned = self._registry.streams.get(name), self.owned.get(name)
            if owned is None or owned.config == config:
                return
            before, owned.config = owned.config, config
            if config is None:
                await self._stop(name, "")
                await self._forget(name, owned)
            elif config.site != self._connection.options.site or config.node not in ("", self.node):
                await self._stop(name, HANDOVER)
                await self._forget(name, owned)
            elif before is not None and name in self._streams.names():
                try:
                    if before.url == config.url and before.settings != config.settings:
                        self._streams.change(name, config.settings)
                    else:
                        await self._streams.replace(name, url=config.url, settings=config.settings, scope=config.scope)
                except (StreamcapError, OSError) as error:
                    log.warning("stream %s: its new configuration cannot be used here: %s", name, error)

    # -- reports

    async def _report_progress(self) -> None:
        while True:
            for name, owned in list(self.owned.items()):
                may_report = owned.writer is None or owned.writer.report()
                if may_report and owned.message is not None and self._connection.is_connected:
                    with contextlib.suppress(NatsError, OSError):
                        await owned.message.in_progress()
                if owned.writer is not None and owned.writer.must_confirm and name in self._streams.names():
                    self._streams.get(name).publisher.confirm()
            await asyncio.sleep(PROGRESS_SECONDS)

    async def _reconcile(self) -> None:
        """Watch for streams that wait, and offer those that are in no queue."""
        site, offered_at = self._connection.options.site, time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_SECONDS * random.uniform(0.8, 1.2))
            with contextlib.suppress(NatsError, OSError, TimeoutError, StreamcapError):
                info = await self._connection.jetstream.consumer_info(ASSIGN_STREAM, f"ingest-{site}")
                if not info.num_pending:
                    self._waiting_since = None
                elif self._waiting_since is None:
                    self._waiting_since = time.monotonic()
                if time.monotonic() - offered_at >= RECONCILE_SECONDS:
                    offered_at = time.monotonic()
                    count = await self._registry.offer_missing(site)
                    if count:
                        log.info("%d streams were in no queue: offered again", count)

    # -- parts

    def _lock(self, name: str) -> asyncio.Lock:
        return self._busy.setdefault(name, asyncio.Lock())

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)


async def _add_consumer(jetstream: JetStreamContext, durable: str, subjects: str) -> None:
    """The consumer of a site's assignments, shared by its nodes."""
    config = ConsumerConfig(
        durable_name=durable,
        filter_subject=subjects,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_SECONDS,
        max_deliver=-1,
        max_ack_pending=1_000_000,
        max_waiting=512,
    )
    try:
        await jetstream.add_consumer(ASSIGN_STREAM, config)
    except APIError as error:
        if error.err_code not in _EXISTS:
            raise
