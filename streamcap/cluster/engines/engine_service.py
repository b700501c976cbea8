"""`EngineService`: lets ingest nodes of the cluster use this node's engine."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from streamcap.cluster.engines.credit import Credit
from streamcap.cluster.engines.messages import (
    Answer,
    Demand,
    EngineReport,
    Request,
    decode_requests,
    encode_answers,
)
from streamcap.cluster.engines.model_directory import ModelDirectory, ModelInfo
from streamcap.cluster.engines.reference_cache import ReferenceCache
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.subjects import DEMAND_SUBJECT, ENGINES_SUBJECT, infer_subject
from streamcap.cluster.tasks import run_all
from streamcap.engine.change_gate import GateMemory
from streamcap.engine.engine import Engine
from streamcap.engine.outcome import Captioned, Outcome
from streamcap.engine.requested_sample import RequestedSample

log = logging.getLogger(__name__)

REPORT_SECONDS = 0.5
MAX_BATCHES = 2
"""Batches that an engine holds at most: one runs while the next one waits."""
IDLE_SECONDS = 60.0
"""The engine's counters of a stream are dropped after this long without a sample."""
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a request came from."""

    reply: str
    number: int
    stream: str
    key: str
    """Of the stream and its owner, at the engine."""
    final: str
    """The id of the final that it may become."""


class EngineService:
    """A request of another node becomes a sample of the local engine, which batches it with all others. `run` is the
    one task; `drain` ends it in order.

    An engine holds as many samples as it captions in half a second (see `Credit`). Policy for more: refused as `busy`,
    counted in `refused`; the sample goes to another engine, or a newer one replaces it.

    Parameters:
        node: this node's id.
        models: what the engine serves, by name.
    """

    def __init__(
        self,
        connection: Connection,
        node: str,
        engine: Engine,
        models: Mapping[str, ModelInfo],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.refused = 0
        self.skipped = 0
        """Messages that streamcap did not write."""
        self.rows_per_second = 0.0
        """Samples per second that the engine has captioned lately, for all nodes."""
        self.draining = False
        self.references = ReferenceCache()
        self._connection = connection
        self._node = node
        self._engine = engine
        self._models = dict(models)
        self._shapes = {name: _shape(info) for name, info in models.items()}
        self._monotonic = monotonic
        self._loop = asyncio.get_running_loop()
        self._credit = Credit(MAX_BATCHES * engine.options.max_batch, monotonic)
        self._held: dict[str, int] = {}
        """By stream and owner: the newest request."""
        self._seen: dict[str, float] = {}
        self._done: deque[tuple[_Origin, Answer, GateMemory | None]] = deque()
        """Outcomes on their way from the device thread to the loop."""
        self._flushing = False
        self._outbox: dict[str, list[Answer]] = {}
        """By reply subject. As many as requests, and their interims."""
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def free(self) -> int:
        """Samples that the engine takes now."""
        return 0 if self.draining else max(0, self._credit.samples - len(self._held))

    async def run(self) -> None:
        """Until cancelled."""
        directory = ModelDirectory(self._connection)
        for info in self._models.values():
            await directory.put(info)
        client = self._connection.client
        requests = await client.subscribe(infer_subject(self._node), cb=self._take)
        demand = await client.subscribe(DEMAND_SUBJECT, cb=self._take_demand)
        try:
            await run_all(self._answer(), self._report())
        finally:
            if self._connection.is_connected:
                await requests.unsubscribe()
                await demand.unsubscribe()

    async def drain(self, timeout: float) -> None:
        """Take nothing more, and answer what is here. At most `timeout` seconds."""
        self.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._publish_report()
                while self._held or self._outbox:  # noqa: ASYNC110 - once, at the end
                    await asyncio.sleep(POLL_SECONDS)

    # -- requests

    async def _take(self, message: Msg) -> None:
        if not message.data:
            return  # asks whether this engine is here
        try:
            owner, requests = decode_requests(message.data)
        except ValueError as error:
            self.skipped += 1
            log.debug("a request is ignored: %s", error)
            return
        for request in requests:
            refused = self._submit(owner, request, message.reply)
            if refused is not None:
                self._outbox.setdefault(message.reply, []).append(refused)
                self._wake.set()

    def _submit(self, owner: str, request: Request, reply: str) -> Answer | None:
        """Give a request to the engine; else the answer."""
        sample, memory = request.sample, request.memory
        shape = self._shapes.get(sample.model)
        if sample.pixels.shape != shape:
            reason = "another engine" if shape is None else f"samples of {shape}, not {sample.pixels.shape}"
            return Answer(request.id, "failed", f"engine {self._node}: model {sample.model} takes {reason}")
        key = f"{owner}/{sample.stream}"
        # A little more than the credit: windows are rounded, and change while requests are on their way.
        if key not in self._held and len(self._held) >= 2 * self._credit.samples:
            self.refused += 1
            return Answer(request.id, "busy")
        if memory is not None:
            memory.references = self.references.get(sample.stream, memory.id)
        self._held[key] = request.id
        self._seen[key] = self._monotonic()
        origin = _Origin(reply, request.id, sample.stream, key, f"{owner}:{request.id}")
        self._engine.submit(
            RequestedSample(
                stream=key,
                pixels=sample.pixels,
                epoch=sample.epoch,
                start=sample.start,
                captured_at=sample.captured_at,
                captured_at_source=sample.captured_at_source,
                arrived=sample.arrived,
                submitted=sample.submitted,
                model=sample.model,
                prompt=sample.prompt,
                memory=memory,
                answer=functools.partial(self._on_outcome, origin),
            )
        )
        return None

    # -- outcomes

    def _on_outcome(self, origin: _Origin, outcome: Outcome, memory: GateMemory | None) -> None:
        """On the device thread."""
        if memory is not None and isinstance(outcome, Captioned):
            memory.id = origin.final
        self._done.append((origin, Answer.of(origin.number, outcome, memory), memory))
        if not self._flushing:
            self._flushing = True
            with contextlib.suppress(RuntimeError):  # the loop has closed
                self._loop.call_soon_threadsafe(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        while self._done:
            origin, answer, memory = self._done.popleft()
            self._outbox.setdefault(origin.reply, []).append(answer)
            if answer.kind == "interim":
                continue
            if memory is not None:
                self.references.put(origin.stream, memory.id, memory.references)
            if self._held.get(origin.key) == answer.id:
                del self._held[origin.key]
        self._wake.set()

    async def _answer(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outbox:
                reply = next(iter(self._outbox))
                answers = self._outbox.pop(reply)
                with contextlib.suppress(NatsError, OSError):  # then the owner asks another engine
                    if self._connection.is_connected:
                        await self._connection.client.publish(reply, encode_answers(answers))

    # -- reports

    async def _take_demand(self, message: Msg) -> None:
        try:
            demand = Demand.parse(message.data)
        except ValueError as error:
            self.skipped += 1
            log.debug("a demand is ignored: %s", error)
            return
        if self._credit.set_demand(demand.owner, sum(demand.streams.get(name, 0) for name in self._models)):
            self._changed.set()

    async def _report(self) -> None:
        at, samples = self._monotonic(), 0
        while True:
            now, local = self._monotonic(), self._engine.statistics
            if now - at >= REPORT_SECONDS:
                self._credit.measure(local.samples, local.busy_seconds)
                rate = (local.samples - samples) / (now - at)
                self.rows_per_second += 0.5 * (rate - self.rows_per_second)
                at, samples = now, local.samples
                self._forget_idle(now)
            await self._publish_report()
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._changed.wait()

    async def _publish_report(self) -> None:
        if not self._connection.is_connected:
            return
        report = EngineReport(
            self._node,
            {name: info.fingerprint for name, info in self._models.items()},
            self._credit.windows(),
            self.free,
            round(self.rows_per_second, 2),
            self.draining,
        )
        with contextlib.suppress(NatsError, OSError):  # the next one says the same
            await self._connection.client.publish(ENGINES_SUBJECT, report.as_json())

    def _forget_idle(self, now: float) -> None:
        for key in [key for key, at in self._seen.items() if now - at >= IDLE_SECONDS]:
            del self._seen[key]
            self._held.pop(key, None)
            self._engine.forget(key)


def _shape(info: ModelInfo) -> tuple[int, ...]:
    image = (int(info.image["height"]), int(info.image["width"]), 3)
    return image if info.clip_length is None else (info.clip_length, *image)
