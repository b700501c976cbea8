"""`Dispatcher`: which sample goes to which engine, and what happens to it if that engine dies. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from streamcap.cluster.engines.messages import Answer, EngineReport, Request, read_memory
from streamcap.engine.change_gate import GateMemory
from streamcap.engine.outcome import Outcome
from streamcap.media.frame import Sample

DEAD_SECONDS = 3.0
"""An engine that has been silent for this long counts as dead."""
SILENT_SECONDS = 1.0
"""The requests of an engine that has been silent for this long go to another one, if there is one."""
ASK_SECONDS = 0.2
"""An engine that owes answers and has been silent for this long is asked whether it is there."""
ANSWER_SECONDS = 5.0
"""A request without an answer for this long is given up, although its engine is alive."""
AFFINITY_SECONDS = 0.25
"""How long a sample waits for the engine that knows its stream while another one is free: the change costs a decode."""


@dataclass(slots=True, eq=False)
class KnownEngine:
    """One engine, as this node knows it."""

    id: str
    models: dict[str, str]
    window: int
    draining: bool
    last_message_at: float
    in_flight: dict[int, InFlight] = field(default_factory=dict)
    streams: int = 0
    """Streams that prefer it."""
    suspended: bool = False
    """It refused a sample, or an answer is overdue: it gets no more until its next report."""

    @property
    def credit(self) -> int:
        return 0 if self.draining or self.suspended else self.window - len(self.in_flight)


@dataclass(slots=True)
class InFlight:
    """One sample at an engine."""

    request: Request
    sent_at: float
    shown: bool = False
    """Whether an interim text of it was shown."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests for one engine, as one message."""

    engine: str
    model: str
    requests: tuple[Request, ...]


class Dispatcher:
    """One of the newest samples of each stream waits, and one is at an engine. Policy: the newer sample replaces the
    waiting one (KEEP_LATEST), counted in `superseded`; with no engine there it also counts as `missed`.

    Streams take turns in the order in which they became ready. A stream stays with its engine, which has the images
    that the change gate compares with, as long as that one has credit. The samples of a dead engine wait again, unless
    a newer one of the stream does. No final is lost by that: a final exists once it is in the log.

    Parameters:
        owner: this node's id.
        accepts: whether an engine's model is the one that samples are made for, by name and fingerprint.
    """

    def __init__(
        self,
        owner: str,
        monotonic: Callable[[], float],
        accepts: Callable[[str, str], bool] = lambda name, fingerprint: True,
    ) -> None:
        self.superseded: dict[str, int] = {}
        self.missed = 0
        """Samples that a newer one replaced while no engine was there, or that no engine's input is known for."""
        self.resent = 0
        """Samples sent again, because their engine died, refused or was silent."""
        self.given_up = 0
        """Requests that an engine did not answer in time."""
        self.late = 0
        """Answers to requests that were given up."""
        self._owner = owner
        self._monotonic = monotonic
        self._accepts = accepts
        self._requests = 0
        self._engines: dict[str, KnownEngine] = {}
        self._ready: dict[str, tuple[float, Sample]] = {}
        """By stream: since when a sample may be sent, and the sample; longest waiting first."""
        self._held: dict[str, Sample] = {}
        """Samples of streams that have an earlier one at an engine."""
        self._requested: dict[str, int] = {}
        """By stream: the id of its request at an engine."""
        self._affinity: dict[str, str] = {}
        self._memories: dict[str, GateMemory] = {}

    @property
    def waiting(self) -> int:
        return len(self._ready) + len(self._held)

    @property
    def in_flight(self) -> int:
        return len(self._requested)

    @property
    def engines(self) -> tuple[str, ...]:
        return tuple(self._engines)

    def serves(self, model: str) -> bool:
        """Whether an engine is there for `model`."""
        return any(self._has(engine, model) for engine in self._engines.values())

    # -- messages of engines

    def on_report(self, report: EngineReport) -> None:
        """Take what an engine reports about itself."""
        engine = self._engines.get(report.engine)
        window, now = report.windows.get(self._owner, 1), self._monotonic()
        if engine is None:
            self._engines[report.engine] = KnownEngine(report.engine, report.models, window, report.draining, now)
            return
        engine.models, engine.window, engine.draining = report.models, window, report.draining
        engine.last_message_at, engine.suspended = now, False

    def on_answer(self, engine_id: str, answer: Answer) -> Outcome | None:
        """Take an answer. Returns the outcome to publish; None if there is none, or the request was given up."""
        engine = self._engines.get(engine_id)
        if engine is None or (sent := engine.in_flight.get(answer.id)) is None:
            self.late += 1
            return None
        engine.last_message_at = self._monotonic()
        if answer.kind == "busy":
            engine.suspended = True
            self._release(engine, answer.id)
            return None
        outcome = answer.outcome(sent.request, self._monotonic())
        if answer.kind == "interim":
            sent.shown = True
            return outcome
        del engine.in_flight[answer.id]
        self._remember(sent.request, answer)
        self._free(sent.request.sample.stream)
        return outcome

    def remove_engine(self, engine_id: str) -> bool:
        """Nobody listens there any more: its samples wait again. Returns whether it was known."""
        engine = self._engines.pop(engine_id, None)
        if engine is None:
            return False
        for number in list(engine.in_flight):
            self._release(engine, number)
        self._affinity = {stream: preferred for stream, preferred in self._affinity.items() if preferred != engine_id}
        return True

    def tick(self) -> list[str]:
        """Call often. Returns the engines to ask whether they are there."""
        now, ask = self._monotonic(), []
        for engine in list(self._engines.values()):
            silent = now - engine.last_message_at
            if silent >= DEAD_SECONDS:
                self.remove_engine(engine.id)
                continue
            if engine.in_flight and silent >= ASK_SECONDS:
                ask.append(engine.id)
            for number, sent in list(engine.in_flight.items()):
                waited, model = now - sent.sent_at, sent.request.sample.model
                moves = min(silent, waited) >= SILENT_SECONDS and self._has_other(engine, model)
                if moves or waited >= ANSWER_SECONDS:
                    self.given_up += 1
                    engine.suspended = True
                    self._release(engine, number)
        return ask

    # -- samples

    def put(self, sample: Sample) -> bool:
        """Take a sample. Returns whether an engine is there for it; without one it waits too."""
        stream, served = sample.stream, self.serves(sample.model)
        if sample.pixels.size == 0:  # the model's input is not known
            self.missed += 1
            return False
        if stream in self._requested:
            self._replace(stream, sample.model, served=served)
            self._held[stream] = sample
        else:
            since, _ = self._ready.get(stream, (self._monotonic(), sample))
            self._replace(stream, sample.model, served=served)
            self._ready[stream] = since, sample
        return served

    def take(self, max_bytes: int) -> Batch | None:
        """The next message; None if nothing can be sent now. Its requests are at their engine from now on."""
        now, size = self._monotonic(), 0
        chosen: tuple[KnownEngine, str] | None = None
        requests: list[Request] = []
        for stream, (since, sample) in list(self._ready.items()):
            engine = self._engine_for(stream, sample.model, now - since)
            if engine is None or (chosen is not None and chosen != (engine, sample.model)):
                continue
            request = Request(self._requests + 1, sample, self._memories.get(stream))
            size += request.size
            if requests and size > max_bytes:
                break
            chosen = engine, sample.model
            self._requests += 1
            requests.append(request)
            del self._ready[stream]
            self._prefer(stream, engine)
            engine.in_flight[request.id] = InFlight(request, now)
            self._requested[stream] = request.id
        return None if chosen is None else Batch(chosen[0].id, chosen[1], tuple(requests))

    def unsent(self, batch: Batch) -> None:
        """A message could not be sent: its samples wait again."""
        engine = self._engines.get(batch.engine)
        for request in batch.requests:
            if engine is not None and request.id in engine.in_flight:
                self._release(engine, request.id)

    def forget(self, stream: str) -> None:
        """The stream was removed."""
        tables: tuple[dict[str, Any], ...] = (
            self.superseded, self._ready, self._held, self._memories,
        )  # fmt: skip
        for table in tables:
            table.pop(stream, None)
        number = self._requested.pop(stream, None)
        if number is not None:
            for engine in self._engines.values():
                engine.in_flight.pop(number, None)
        preferred = self._engines.get(self._affinity.pop(stream, ""))
        if preferred is not None:
            preferred.streams -= 1

    # -- parts

    def _has(self, engine: KnownEngine, model: str) -> bool:
        fingerprint = engine.models.get(model)
        return fingerprint is not None and self._accepts(model, fingerprint)

    def _has_other(self, engine: KnownEngine, model: str) -> bool:
        return any(
            other is not engine and other.credit > 0 and self._has(other, model) for other in self._engines.values()
        )

    def _engine_for(self, stream: str, model: str, waited: float) -> KnownEngine | None:
        preferred = self._engines.get(self._affinity.get(stream, ""))
        if preferred is not None and not (preferred.draining or preferred.suspended) and self._has(preferred, model):
            if preferred.credit > 0:
                return preferred
            if waited < AFFINITY_SECONDS:
                return None
        others = [engine for engine in self._engines.values() if engine.credit > 0 and self._has(engine, model)]
        return min(others, key=lambda engine: (len(engine.in_flight) + engine.streams) / engine.window, default=None)

    def _prefer(self, stream: str, engine: KnownEngine) -> None:
        before = self._affinity.get(stream)
        if before != engine.id:
            if before is not None and (preferred := self._engines.get(before)) is not None:
                preferred.streams -= 1
            self._affinity[stream] = engine.id
            engine.streams += 1

    def _remember(self, request: Request, answer: Answer) -> None:
        memory = read_memory(answer.memory, request.sample)
        if memory is not None:
            self._memories[request.sample.stream] = memory

    def _free(self, stream: str) -> None:
        """The stream's request has ended: its newest sample may be sent."""
        self._requested.pop(stream, None)
        sample = self._held.pop(stream, None)
        if sample is not None:
            self._ready[stream] = self._monotonic(), sample

    def _release(self, engine: KnownEngine, number: int) -> None:
        """A request will not be answered: its sample waits again, unless a newer one does."""
        sent = engine.in_flight.pop(number)
        sample = sent.request.sample
        if sent.shown:
            # The next caption must become the final of the interim text, also if it repeats the last final.
            self._memories.pop(sample.stream, None)
        if sample.stream in self._held:
            self._count(self.superseded, sample.stream)
        else:
            self.resent += 1
            self._held[sample.stream] = sample
        self._free(sample.stream)

    def _replace(self, stream: str, model: str, *, served: bool) -> None:
        if stream in self._held or stream in self._ready:
            self._count(self.superseded, stream)
            self.missed += not served

    @staticmethod
    def _count(table: dict[str, int], stream: str) -> None:
        table[stream] = table.get(stream, 0) + 1
