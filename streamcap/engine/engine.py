"""`Engine`: the thread that owns the device. Takes samples of all local models from any thread, delivers outcomes."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from streamcap.engine.batch_size import BatchSize
from streamcap.engine.change_gate import ChangeGate, ChangeGateOptions, Features, Verdict
from streamcap.engine.failure_log import FailureLog, describe
from streamcap.engine.fair_share import FairShare
from streamcap.engine.interim_filter import InterimFilter
from streamcap.engine.latest_queue import LatestSampleQueue, encoder_of
from streamcap.engine.outcome import Captioned, Encoded, Failed, Interim, Outcome, Times, Unchanged, Unconfirmed
from streamcap.engine.requested_sample import RequestedSample
from streamcap.engine.statistics import EngineStatistics, ModelStatistics
from streamcap.media.frame import Pixels, Sample

log = logging.getLogger(__name__)


class Decoded(Protocol):
    """The result of one row."""

    @property
    def text(self) -> str: ...
    @property
    def logprob(self) -> float: ...
    @property
    def confidence(self) -> float | None: ...


class Model(Protocol):
    """What the engine needs of a captioner. The engine only indexes the rows of embeddings."""

    def encode(self, pixels: Pixels) -> Any:
        """uint8 (B, H, W, 3) or (B, T, H, W, 3) → embeddings of B rows."""

    def features(self, embeddings: Any) -> Features:
        """(B, D) float32 of unit length, for the gate."""

    def decode(
        self,
        embeddings: Any,
        *,
        streams: Sequence[str],
        on_text: Callable[[int, list[int]], None] | None = None,
        prompts: Sequence[str | None] | None = None,
    ) -> Sequence[Decoded]:
        """One result a row, of the stream in `streams`. Calls `on_text(row, tokens so far)` while decoding.

        prompts: one a row, None for the model's own; given only if a stream has one.
        """

    def text(self, tokens: list[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    gate: ChangeGateOptions
    max_batch: int = 64
    interim_interval: float = 0.1
    """Minimum seconds between two interim texts of one stream; 0 or less: no interim texts."""

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError(f"max_batch {self.max_batch}: must be at least 1")


@dataclass(frozen=True, slots=True)
class _Lane:
    """One local model."""

    name: str
    model: Model
    statistics: ModelStatistics
    batch_size: BatchSize


class Engine:
    """Captions samples on one thread, in batches across all streams of a model.

    `deliver` is called on that thread, with each stream's outcomes in order. It must not block; pass them to a loop.
    A stream has at most one sample in a batch, so its outcomes stay in order. Of several models with waiting samples,
    the one that has used the device least is next. If a model fails, the batch is split in halves down to single rows,
    so that one bad frame costs only itself: it becomes a `Failed` outcome. The model handles out-of-memory errors
    itself. NaN in its results is a failure of the model. A `RequestedSample` of another machine shares the batches; its
    outcome goes to its `answer`, and nothing of it stays.

    Parameters:
        models: by name.
        deliver_encoded: takes samples of remote models, whose image a local model has embedded for the change gate.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        options: EngineOptions,
        deliver: Callable[[list[Outcome]], None],
        *,
        deliver_encoded: Callable[[list[Encoded]], None] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.statistics = EngineStatistics()
        self.gate = ChangeGate(options.gate)
        self._lanes: dict[str, _Lane] = {}
        self._deliver_own = deliver
        self._deliver_encoded = deliver_encoded
        self._monotonic = monotonic
        self._queue = LatestSampleQueue()
        self._share = FairShare()
        self.statistics.superseded = self._queue.superseded
        self._forgotten: deque[str] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._failures = FailureLog(monotonic)
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        for name, model in models.items():
            self.add_model(name, model)

    def start(self) -> None:
        self._thread.start()

    def add_model(self, name: str, model: Model) -> ModelStatistics:
        """Add a local model, or replace the one of that name. From any thread."""
        statistics = ModelStatistics()
        with self._changed:
            self._lanes[name] = _Lane(name, model, statistics, BatchSize(self.options.max_batch))
            self.statistics.models = {**self.statistics.models, name: statistics}
        return statistics

    def submit(self, sample: Sample) -> None:
        """Queue `sample`; it replaces a waiting older one of its stream. From any thread; never blocks.

        Raises KeyError if the engine has no such model.
        """
        with self._changed:
            if encoder_of(sample) not in self._lanes:
                raise KeyError(encoder_of(sample))
            if not self._stopping:
                self._queue.put(sample)
                self._changed.notify()

    def forget(self, stream: str) -> None:
        """Forget a removed stream. From any thread."""
        with self._changed:
            self._queue.forget(stream)
            self._forgotten.append(stream)
            self._changed.notify()

    def stop(self, timeout: float) -> bool:
        """Stop after the current batch. Returns whether the thread ended within `timeout` seconds. Idempotent."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or len(self._queue) > 0 or self._forgotten)
                if self._stopping:
                    return
                while self._forgotten:
                    self.gate.forget(self._forgotten.popleft())
                if not len(self._queue):
                    continue
                lane = self._lanes[self._share.choose(self._queue.encoders())]
                waiting = self._queue.waiting(lane.name)
                batch = self._queue.take(lane.batch_size.choose(waiting), lane.name)
            began = self._monotonic()
            self._caption(lane, batch, began)
            seconds = self._monotonic() - began
            self._share.charge(lane.name, seconds)
            lane.batch_size.note(len(batch), seconds, waiting)
            lane.statistics.batches += 1
            lane.statistics.samples += len(batch)
            lane.statistics.busy_seconds += seconds

    def _caption(self, lane: _Lane, batch: list[Sample], taken: float) -> None:
        waiting = list(batch)
        try:
            outcomes = self._outcomes(lane, batch, taken, waiting)
        except Exception as error:  # noqa: BLE001 - no error of a model may end the device thread
            if len(waiting) == 1:
                self._deliver([self._failed(lane, waiting[0], error)])
                return
            half = len(waiting) // 2
            log.debug("a batch of %d failed (%s); trying it in halves", len(waiting), error)
            self._caption(lane, waiting[:half], taken)
            self._caption(lane, waiting[half:], taken)
            return
        if outcomes:
            self._deliver(outcomes)

    def _outcomes(self, lane: _Lane, batch: list[Sample], taken: float, waiting: list[Sample]) -> list[Outcome]:
        """`waiting`: the samples of `batch`; those whose outcome is delivered before the end are removed."""
        for sample in batch:
            if isinstance(sample, RequestedSample):
                self.gate.load(sample.stream, sample.memory)
        embeddings = lane.model.encode(np.stack([sample.pixels for sample in batch]))
        features = lane.model.features(embeddings)
        encoded = self._monotonic()
        times = Times(taken, encoded, encoded)
        finite = np.isfinite(features).reshape(len(batch), -1).all(1)
        outcomes: list[Outcome] = [
            self._failed(lane, batch[row], FloatingPointError("the model's embedding is not a number"))
            for row in np.flatnonzero(~finite)
        ]
        rows = np.flatnonzero(finite).tolist()
        if remote := [row for row in rows if batch[row].model != lane.name]:
            rows = [row for row in rows if batch[row].model == lane.name]
            if self._deliver_encoded is not None:
                self._deliver_encoded([Encoded(batch[row], features[row], times) for row in remote])
        distances = {row: self.gate.distance(batch[row], features[row]) for row in rows}
        changed = [row for row in rows if not self.gate.is_unchanged(distances[row])]
        unchanged = [row for row in rows if self.gate.is_unchanged(distances[row])]
        for row in unchanged:
            self.gate.mark_unchanged(batch[row])
        lane.statistics.decode_skipped += len(unchanged)
        outcomes += [Unchanged(batch[row], decoded=False) for row in unchanged]
        if not changed:
            return outcomes
        if outcomes:
            # Unchanged samples do not wait for the decoding of the others.
            self._deliver(outcomes)
        waiting[:] = [batch[row] for row in changed]
        interim = _InterimTexts(
            waiting,
            [self.gate.last_text(batch[row]) if self.gate.is_changed(distances[row]) else None for row in changed],
            times,
            text=lane.model.text,
            deliver=self._deliver,
            interval=self.options.interim_interval,
            monotonic=self._monotonic,
        )
        results = lane.model.decode(
            embeddings if len(changed) == len(batch) else embeddings[changed],
            streams=[batch[row].stream for row in changed],
            on_text=interim.listener,
            **({"prompts": [one.prompt for one in waiting]} if any(one.prompt for one in waiting) else {}),
        )
        times = Times(taken, encoded, self._monotonic())
        return [
            self._commit(lane, batch[row], features[row], distances[row], result, times, shown=shown)
            for row, result, shown in zip(changed, results, interim.shown, strict=True)
        ]

    def _commit(
        self,
        lane: _Lane,
        sample: Sample,
        features: Features,
        distance: float,
        result: Decoded,
        times: Times,
        *,
        shown: bool,
    ) -> Outcome:
        if math.isnan(result.logprob):
            return self._failed(lane, sample, FloatingPointError("the model's log-probability is not a number"))
        judgement = self.gate.settle(sample, features, distance, result.text, shown=shown)
        if judgement.verdict is Verdict.UNCHANGED:
            lane.statistics.duplicates += 1
            return Unchanged(sample, decoded=True)
        if judgement.verdict is Verdict.UNCONFIRMED:
            lane.statistics.unconfirmed += 1
            return Unconfirmed(sample)
        lane.statistics.captioned += 1
        return Captioned(sample, result.text, result.logprob, times, judgement.first, result.confidence)

    def _deliver(self, outcomes: list[Outcome]) -> None:
        own: list[Outcome] = []
        for outcome in outcomes:
            sample = outcome.sample
            if not isinstance(sample, RequestedSample):
                own.append(outcome)
            else:
                sample.answer(outcome, None if isinstance(outcome, Interim) else self.gate.take(sample.stream))
        if own:
            self._deliver_own(own)

    def _failed(self, lane: _Lane, sample: Sample, error: Exception) -> Failed:
        self._failures.report(error, f"stream {sample.stream}")
        lane.statistics.failed += 1
        return Failed(sample, describe(error))


class _InterimTexts:
    """Delivers interim texts while rows are decoded.

    Parameters:
        last_texts: the last final of each row; None: no interim texts for this row.
        times: of the batch, up to its encoding.
        text: makes text of tokens.
    """

    def __init__(
        self,
        samples: list[Sample],
        last_texts: list[str | None],
        times: Times,
        *,
        text: Callable[[list[int]], str],
        deliver: Callable[[list[Outcome]], None],
        interval: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._samples = samples
        self._filters = [InterimFilter(last, interval=interval, begin=times.encoded) for last in last_texts]
        self._times = times
        self._text = text
        self._deliver = deliver
        self._monotonic = monotonic
        self.listener = self._on_text if any(one.enabled for one in self._filters) else None

    @property
    def shown(self) -> list[bool]:
        """Whether a text of each row was delivered."""
        return [one.shown for one in self._filters]

    def _on_text(self, row: int, tokens: list[int]) -> None:
        chosen, now = self._filters[row], self._monotonic()
        if not chosen.is_due(now):
            return
        text = self._text(tokens).strip()
        if chosen.accept(text, now):
            self._deliver([Interim(self._samples[row], text, replace(self._times, decoded=now))])
