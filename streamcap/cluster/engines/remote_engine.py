"""`RemoteEngine`: the engine of an ingest node without a model: it sends samples to engines of other nodes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from streamcap.cluster.engines.dispatcher import Dispatcher
from streamcap.cluster.engines.messages import Answer, Demand, EngineReport, decode_answers, encode_requests
from streamcap.cluster.engines.model_directory import AnnouncedModels, ModelDirectory
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.subjects import DEMAND_SUBJECT, ENGINES_SUBJECT, answer_subject, infer_subject
from streamcap.cluster.tasks import run_all
from streamcap.engine.outcome import Failed, Outcome
from streamcap.engine.statistics import EngineStatistics, ModelStatistics
from streamcap.media.frame import Sample

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
DEMAND_SECONDS = 0.5
ACTIVE_SECONDS = 10.0
"""A stream without a sample for this long does not count in the demand."""
NO_RESPONDERS = "503"


class RemoteEngine:
    """Takes samples from any thread, delivers outcomes on the event loop, in order for each stream. `run` is the one
    task.

    Parameters:
        node: this node's id.
        models: what the engines serve.
        default: the model of streams that name none.
        deliver: takes outcomes.
    """

    def __init__(
        self,
        connection: Connection,
        node: str,
        models: ModelDirectory,
        default: str,
        deliver: Callable[[list[Outcome]], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.served = AnnouncedModels(models, default)
        self.statistics = EngineStatistics()
        self.dispatcher = Dispatcher(node, monotonic, models.accepts)
        self.statistics.superseded = self.dispatcher.superseded
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._node = node
        self._deliver = deliver
        self._monotonic = monotonic
        self._wake = asyncio.Event()
        self._engines: dict[str, str] = {}
        """By the subject of its answers."""
        self._active: dict[str, tuple[str, float]] = {}
        """By stream: model and time of its newest sample."""
        self._sent_demand: dict[str, int] = {}

    def submit(self, sample: Sample) -> None:
        """Take a sample. From any thread; never blocks."""
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._put, sample)

    def forget(self, stream: str) -> None:
        """A stream was removed."""
        self.dispatcher.forget(stream)
        self._active.pop(stream, None)

    async def run(self) -> None:
        """Until cancelled."""
        client = self._connection.client
        answers = await client.subscribe(answer_subject(self._node, "*"), cb=self._take_answers)
        reports = await client.subscribe(ENGINES_SUBJECT, cb=self._take_report)
        try:
            await run_all(self._send(), self._watch(), self._report_demand())
        finally:
            if self._connection.is_connected:
                await answers.unsubscribe()
                await reports.unsubscribe()

    # -- samples

    def _put(self, sample: Sample) -> None:
        self._active[sample.stream] = sample.model, self._monotonic()
        if not self.dispatcher.put(sample):
            self._deliver([Failed(sample, f"no engine serves model {sample.model}")])
        self._wake.set()

    async def _send(self) -> None:
        client = self._connection.client
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._connection.is_connected and (batch := self.dispatcher.take(client.max_payload)):
                body = encode_requests(self._node, batch.model, batch.requests)
                if len(body) > client.max_payload:
                    self._too_large(batch.engine, [request.id for request in batch.requests], len(body))
                    continue
                try:
                    reply = answer_subject(self._node, batch.engine)
                    await client.publish(infer_subject(batch.engine), body, reply=reply)
                except (NatsError, OSError) as error:
                    log.debug("engine %s: %s", batch.engine, error)
                    self.dispatcher.unsent(batch)
                    break

    def _too_large(self, engine: str, numbers: list[int], size: int) -> None:
        """One sample that no message can hold."""
        limit = self._connection.client.max_payload
        reason = f"a sample of {size} bytes is too large for NATS: raise its max_payload, now {limit}"
        for number in numbers:
            self._finish(engine, Answer(number, "failed", reason))

    # -- messages of engines

    async def _take_answers(self, message: Msg) -> None:
        engine = self._engines.get(message.subject)
        if engine is None:
            return
        if (message.headers or {}).get("Status") == NO_RESPONDERS:
            if self.dispatcher.remove_engine(engine):
                log.warning("engine %s is gone", engine)
            self._wake.set()
            return
        try:
            answers = decode_answers(message.data)
        except ValueError as error:
            log.debug("engine %s: an answer is ignored: %s", engine, error)
            return
        for answer in answers:
            self._finish(engine, answer)
        self._wake.set()

    def _finish(self, engine: str, answer: Answer) -> None:
        outcome = self.dispatcher.on_answer(engine, answer)
        if outcome is None:
            return
        if answer.kind != "interim":
            self._count(outcome.sample.model, answer)
        self._deliver([outcome])

    async def _take_report(self, message: Msg) -> None:
        try:
            report = EngineReport.parse(message.data)
        except ValueError as error:
            log.debug("the report of an engine is ignored: %s", error)
            return
        self._engines[answer_subject(self._node, report.engine)] = report.engine
        is_new = report.engine not in self.dispatcher.engines
        self.dispatcher.on_report(report)
        self._wake.set()
        if is_new:
            log.info("engine %s serves %s", report.engine, ", ".join(report.models))
            await self._publish_demand()

    async def _watch(self) -> None:
        while True:
            before = self.dispatcher.engines
            for engine in self.dispatcher.tick():
                # An empty request: the server answers for an engine that is dead.
                await self._publish(infer_subject(engine), b"", answer_subject(self._node, engine))
            for engine in set(before) - set(self.dispatcher.engines):
                log.warning("engine %s is silent", engine)
            known = set(self.dispatcher.engines)
            self._engines = {subject: engine for subject, engine in self._engines.items() if engine in known}
            self._wake.set()
            await asyncio.sleep(TICK_SECONDS)

    # -- demand

    async def _report_demand(self) -> None:
        sent_at = 0.0
        while True:
            now = self._monotonic()
            if self._demand() != self._sent_demand or now - sent_at >= DEMAND_SECONDS:
                sent_at = now
                await self._publish_demand()
            await asyncio.sleep(TICK_SECONDS)

    async def _publish_demand(self) -> None:
        self._sent_demand = self._demand()
        await self._publish(DEMAND_SUBJECT, Demand(self._node, self._sent_demand).as_json())

    def _demand(self) -> dict[str, int]:
        now, counts = self._monotonic(), dict[str, int]()
        for model, at in self._active.values():
            if now - at < ACTIVE_SECONDS:
                counts[model] = counts.get(model, 0) + 1
        return counts

    async def _publish(self, subject: str, body: bytes, reply: str = "") -> None:
        if self._connection.is_connected:
            with contextlib.suppress(NatsError, OSError):  # the next one says the same
                await self._connection.client.publish(subject, body, reply=reply)

    def _count(self, model: str, answer: Answer) -> None:
        """As the engine's own counters, for `/metrics`."""
        statistics = self.statistics.models.get(model)
        if statistics is None:
            statistics = ModelStatistics()
            self.statistics.models = {**self.statistics.models, model: statistics}
        statistics.samples += 1
        statistics.captioned += answer.kind == "captioned"
        statistics.unconfirmed += answer.kind == "unconfirmed"
        statistics.failed += answer.kind == "failed"
        statistics.duplicates += answer.kind == "unchanged" and answer.decoded
        statistics.decode_skipped += answer.kind == "unchanged" and not answer.decoded
