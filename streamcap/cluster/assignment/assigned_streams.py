"""`AssignedStreams`: takes streams from a work queue of JetStream, reports progress on them, and gives them back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError, ServiceUnavailableError

from streamcap.cluster.assignment.balance import Balance, NodeLoad
from streamcap.cluster.assignment.nodes import NodeDirectory, NodeInfo
from streamcap.cluster.assignment.registry import StreamConfig, StreamRegistry
from streamcap.cluster.jetstream.connection import ELECTION_SECONDS, Connection
from streamcap.cluster.jetstream.subjects import WorkQueue, name_of
from streamcap.cluster.log.ownership import ACK_WAIT_SECONDS, PROGRESS_SECONDS
from streamcap.cluster.tasks import run_all
from streamcap.errors import StreamcapError

log = logging.getLogger(__name__)

FETCH_SECONDS = 1.0
DECIDE_SECONDS = 0.25
RECONCILE_SECONDS = 10.0
_EXISTS = frozenset({10013, 10105, 10148})
# A stream that cannot be started here is offered to other nodes after this pause.
RETRY_SECONDS = 5.0
DRAIN_AT_ONCE = 16
"""Streams that a draining node stops at a time."""


@dataclass(slots=True)
class Assigned:
    """A stream that this node has."""

    config: StreamConfig | None
    """None: the stream has been removed."""
    message: Msg | None
    """The assignment, unacknowledged; None: a stream that belongs to this node."""


class AssignedStreams(ABC):
    """The streams of one role of this node. `run` is the one task; `drain` ends it in order.

    Parameters:
        queue: where the streams of all sites wait.
        cpu: the share of the machine's CPUs in use.
    """

    def __init__(
        self,
        connection: Connection,
        node: str,
        queue: WorkQueue,
        registry: StreamRegistry,
        nodes: NodeDirectory,
        *,
        cpu: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.node = node
        self.owned: dict[str, Assigned] = {}
        self.takeovers = 0
        """Streams that were assigned to this node since it started."""
        self.lost = 0
        """Streams that another node took while this one had them."""
        self.waiting = 0
        """Streams of this site that no node has taken, as last seen."""
        self.is_taking = False
        """Whether this node has started: it takes streams if it has room."""
        self.draining = False
        self.site = connection.options.site
        self._connection = connection
        self._queue = queue
        self._registry = registry
        self._nodes = nodes
        self._cpu = cpu
        self._balance = Balance(node, time.monotonic)
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """A lock is there as long as somebody holds it or waits for it."""
        self._waiting_since: float | None = None
        registry.observers.append(self._on_change)

    async def run(self) -> None:
        """Until cancelled."""
        await self._registry.ready.wait()
        await self._nodes.ready.wait()
        self.is_taking = True
        # Until now the others took its share, since nobody else would have run it.
        await self._nodes.report()
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

    # -- what a role does with a stream; each under the lock of the stream

    @abstractmethod
    async def start_stream(self, config: StreamConfig) -> None:
        """Run the stream. Raises StreamcapError, OSError if that cannot be done here."""

    @abstractmethod
    async def stop_stream(self, name: str, *, moves: bool) -> None:
        """Stop the stream. moves: another node will run it; else it was removed, or another node has taken it."""

    @abstractmethod
    async def change_stream(self, before: StreamConfig, config: StreamConfig) -> None:
        """Follow the new configuration of a stream. Raises StreamcapError, OSError."""

    @abstractmethod
    def load_of(self, info: NodeInfo) -> NodeLoad:
        """The load of node `info` in this role."""

    @abstractmethod
    def is_assigned(self, config: StreamConfig) -> bool:
        """Whether the stream is one that the queue assigns."""

    @abstractmethod
    def report(self, name: str) -> bool:
        """Called at every progress report. Returns whether the stream is still this node's, as far as it knows."""

    @abstractmethod
    def is_lost(self, name: str) -> bool:
        """Whether another node has taken the stream, so that its assignment is no longer this node's to give back."""

    @abstractmethod
    def on_other_change(self, config: StreamConfig | None) -> None:
        """A stream that this node does not have was added, changed or removed (None)."""

    def on_dropped(self, name: str) -> None:  # noqa: B027 - a role may have nothing to forget
        """This node has the stream no longer."""

    def is_stuck(self) -> bool:
        """Whether a stream that stops now could not store what it has."""
        return False

    def on_lost(self, name: str) -> None:
        """Another node has taken the stream: stop at once, and leave the assignment alone."""
        self.lost += 1
        owned = self.owned.get(name)
        if owned is not None:
            self.spawn(self._abandon(name, owned), f"lost-{name}")

    # -- taking

    async def _take_streams(self) -> None:
        while True:
            try:
                await self._pull()
            except (NatsError, OSError, TimeoutError) as error:
                log.debug("assignments: %s; trying again", error)
                await asyncio.sleep(DECIDE_SECONDS)

    async def _pull(self) -> None:
        durable, jetstream = self._queue.consumer(self.site), self._connection.jetstream
        await _add_consumer(jetstream, self._queue.stream, durable, self._queue.subjects_of(self.site))
        subscription = await jetstream.pull_subscribe_bind(durable, self._queue.stream)
        refused = 0
        try:
            while True:
                if self.draining or not self._may_take():
                    self._maybe_give_back()
                    await asyncio.sleep(DECIDE_SECONDS)
                    continue
                try:
                    for message in await subscription.fetch(1, timeout=FETCH_SECONDS):
                        self._begin(message)
                    refused = 0
                except TimeoutError:  # nothing waits
                    refused = 0
                except ServiceUnavailableError:
                    # Most often an election, which ends sooner than a request to make the consumer anew.
                    refused += 1
                    if refused * DECIDE_SECONDS >= ELECTION_SECONDS:
                        raise
                    await asyncio.sleep(DECIDE_SECONDS)
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
        self._take(name, message)

    def _take(self, name: str, message: Msg | None) -> None:
        self.takeovers += 1
        self.owned[name] = Assigned(self._registry.streams.get(name), message)
        self.spawn(self._start(name), f"start-{name}")

    def _may_take(self) -> bool:
        waiting = 0.0 if self._waiting_since is None else time.monotonic() - self._waiting_since
        loads = self._loads(self._nodes.reporting)
        return self._balance.may_take(loads, self._total(), cpu=self._cpu(), waiting_s=waiting)

    def _maybe_give_back(self) -> None:
        if (
            self.draining
            or self.is_stuck()
            or not self._balance.should_give_back(self._loads(self._nodes.nodes), self._total())
        ):
            return
        newest = next((name for name in reversed(self.owned) if self.owned[name].message is not None), None)
        if newest is not None:
            log.info("stream %s: given back, since this node has more than its share", newest)
            self.spawn(self._give_back(newest), f"give-back-{newest}")

    def _loads(self, nodes: Iterable[NodeInfo]) -> list[NodeLoad]:
        loads = (self.load_of(info) for info in nodes if info.site == self.site)
        return [
            replace(load, streams=len(self.owned), is_closed=self.draining) if load.id == self.node else load
            for load in loads
        ]

    def _total(self) -> int:
        return sum(config.site == self.site for config in self._registry.streams.values())

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
                await self.start_stream(owned.config)
            except (StreamcapError, OSError) as error:
                log.warning("stream %s cannot run here: %s", name, error)
                await self._nak(name, owned, RETRY_SECONDS)
            except Exception:  # a bug must not hold the stream forever
                log.exception("stream %s could not be started", name)
                await self._nak(name, owned, RETRY_SECONDS)

    async def _give_back(self, name: str) -> None:
        async with self._lock(name):
            owned = self.owned.get(name)
            if owned is None:
                return
            await self.stop_stream(name, moves=True)
            # The assignment of a lost stream belongs to another node.
            if self.is_lost(name):
                self._drop(name)
            else:
                await self._nak(name, owned)

    async def _nak(self, name: str, owned: Assigned, delay: float | None = None) -> None:
        self._drop(name)
        if owned.message is not None:
            with contextlib.suppress(NatsError, OSError, TimeoutError):  # then JetStream waits for its timeout
                await owned.message.nak(delay=delay)

    async def _forget(self, name: str, owned: Assigned) -> None:
        """The stream was removed: take its message out of the queue."""
        self._drop(name)
        if owned.message is not None:
            with contextlib.suppress(NatsError, OSError, TimeoutError):  # then the next node does it
                await owned.message.ack()

    async def _abandon(self, name: str, owned: Assigned) -> None:
        async with self._lock(name):
            if self.owned.get(name) is owned:
                await self.stop_stream(name, moves=False)
                self._drop(name)

    def _drop(self, name: str) -> None:
        self.owned.pop(name, None)
        self.on_dropped(name)

    # -- what changes

    def _on_change(self, name: str) -> None:
        config, owned = self._registry.streams.get(name), self.owned.get(name)
        if owned is None:
            self.on_other_change(config)
        elif config != owned.config:
            self.spawn(self._apply(name), f"change-{name}")

    async def _apply(self, name: str) -> None:
        """Follow the configuration of a stream that this node has."""
        async with self._lock(name):
            config, owned = self._registry.streams.get(name), self.owned.get(name)
            if owned is None or owned.config == config:
                return
            before, owned.config = owned.config, config
            if config is None:
                await self.stop_stream(name, moves=False)
                await self._forget(name, owned)
            elif config.site != self.site or not (self.is_assigned(config) or config.node == self.node):
                await self.stop_stream(name, moves=True)
                await self._forget(name, owned)
            elif before is not None:
                try:
                    await self.change_stream(before, config)
                except (StreamcapError, OSError) as error:
                    log.warning("stream %s: its new configuration cannot be used here: %s", name, error)

    # -- reports

    async def _report_progress(self) -> None:
        while True:
            for name, owned in list(self.owned.items()):
                if self.report(name) and owned.message is not None and self._connection.is_connected:
                    with contextlib.suppress(NatsError, OSError):
                        await owned.message.in_progress()
            await asyncio.sleep(PROGRESS_SECONDS)

    async def _reconcile(self) -> None:
        """Watch for streams that wait, and offer those that are in no queue."""
        queue, offered_at = self._queue, time.monotonic()
        while True:
            await asyncio.sleep(PROGRESS_SECONDS * random.uniform(0.8, 1.2))
            with contextlib.suppress(NatsError, OSError, TimeoutError, StreamcapError):
                info = await self._connection.jetstream.consumer_info(queue.stream, queue.consumer(self.site))
                self.waiting = info.num_pending or 0
                if not self.waiting:
                    self._waiting_since = None
                elif self._waiting_since is None:
                    self._waiting_since = time.monotonic()
                if time.monotonic() - offered_at >= RECONCILE_SECONDS:
                    offered_at = time.monotonic()
                    count = await self._registry.offer_missing(self.site, queue, self.is_assigned)
                    if count:
                        log.info("%d streams were in no queue of role %s: offered again", count, queue.role)

    # -- parts

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._busy.get(name)
        if lock is None:
            lock = self._busy[name] = asyncio.Lock()
        return lock

    def spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        """Run `work` as a task of this object; a failure is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)


async def _add_consumer(jetstream: JetStreamContext, stream: str, durable: str, subjects: str) -> None:
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
        await jetstream.add_consumer(stream, config)
    except APIError as error:
        if error.err_code not in _EXISTS:
            raise
