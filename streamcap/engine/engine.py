"""`Engine`: the thread that owns the device. Takes samples from any thread, delivers lists of outcomes."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from streamcap.captioner.decoding.drafts import DraftStatistics
from streamcap.engine.change_gate import ChangeGate, ChangeGateOptions, Features, Verdict
from streamcap.engine.failure_log import FailureLog, describe
from streamcap.engine.latest_queue import LatestSampleQueue
from streamcap.engine.outcome import Captioned, Failed, Interim, Outcome, Times, Unchanged, Unconfirmed
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
        self, embeddings: Any, *, streams: Sequence[str], on_text: Callable[[int, list[int]], None] | None = None
    ) -> Sequence[Decoded]:
        """One result a row, of the stream in `streams`. Calls `on_text(row, tokens so far)` while decoding."""

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


@dataclass(slots=True)
class EngineStatistics:
    """Counters since the start. Each has one writer thread; any thread may read."""

    samples: int = 0
    batches: int = 0
    captioned: int = 0
    decode_skipped: int = 0
    """Samples whose image had not changed."""
    duplicates: int = 0
    """Samples decoded to the same text as the last final."""
    unconfirmed: int = 0
    """Samples whose new text the next sample had to confirm."""
    failed: int = 0
    superseded: dict[str, int] = field(default_factory=dict)
    busy_seconds: float = 0.0
    drafts: DraftStatistics = field(default_factory=DraftStatistics)
    """The model's passes and draft tokens. The creator of the engine sets it to the model's."""


class Engine:
    """Captions samples on one thread, in batches across all streams.

    `deliver` is called on that thread, with each stream's outcomes in order. It must not block; pass them to a loop.
    A stream has at most one sample in a batch, so its outcomes stay in order. If the model fails, the batch is split
    in halves down to single rows, so that one bad frame costs only itself: it becomes a `Failed` outcome. The model
    handles out-of-memory errors itself. NaN in its results is a failure of the model.
    """

    def __init__(
        self,
        model: Model,
        options: EngineOptions,
        deliver: Callable[[list[Outcome]], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.statistics = EngineStatistics()
        self._model = model
        self._deliver = deliver
        self._monotonic = monotonic
        self._gate = ChangeGate(options.gate)
        self._queue = LatestSampleQueue()
        self.statistics.superseded = self._queue.superseded
        self._forgotten: deque[str] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._failures = FailureLog(monotonic)
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, sample: Sample) -> None:
        """Queue `sample`; it replaces a waiting older one of its stream. From any thread; never blocks."""
        with self._changed:
            if not self._stopping:
                self._queue.put(sample)
                self._changed.notify()

    def forget(self, stream: str) -> None:
        """Forget a rechanged stream. From any thread."""
        with self._changed:
            self._queue.forget(stream)
            self._forgotten.append(stream)

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
                self._changed.wait_for(lambda: self._stopping or len(self._queue) > 0)
                if self._stopping:
                    return
                while self._forgotten:
                    self._gate.forget(self._forgotten.popleft())
                batch = self._queue.take(self.options.max_batch)
            began = self._monotonic()
            self._caption(batch, began)
            self.statistics.batches += 1
            self.statistics.samples += len(batch)
            self.statistics.busy_seconds += self._monotonic() - began

    def _caption(self, batch: list[Sample], taken: float) -> None:
        try:
            outcomes = self._outcomes(batch, taken)
        except Exception as error:  # noqa: BLE001 - no error of a model may end the device thread
            if len(batch) == 1:
                self._deliver([self._failed(batch[0], error)])
                return
            half = len(batch) // 2
            log.debug("a batch of %d failed (%s); trying it in halves", len(batch), error)
            self._caption(batch[:half], taken)
            self._caption(batch[half:], taken)
            return
        if outcomes:
            self._deliver(outcomes)

    def _outcomes(self, batch: list[Sample], taken: float) -> list[Outcome]:
        embeddings = self._model.encode(np.stack([sample.pixels for sample in batch]))
        features = self._model.features(embeddings)
        encoded = self._monotonic()
        finite = np.isfinite(features).reshape(len(batch), -1).all(1)
        outcomes: list[Outcome] = [
            self._failed(batch[row], FloatingPointError("the model's embedding is not a number"))
            for row in np.flatnonzero(~finite)
        ]
        rows = np.flatnonzero(finite).tolist()
        distances = {row: self._gate.distance(batch[row], features[row]) for row in rows}
        changed = [row for row in rows if not self._gate.is_unchanged(distances[row])]
        unchanged = [row for row in rows if self._gate.is_unchanged(distances[row])]
        for row in unchanged:
            self._gate.mark_unchanged(batch[row])
        self.statistics.decode_skipped += len(unchanged)
        outcomes += [Unchanged(batch[row], decoded=False) for row in unchanged]
        if not changed:
            return outcomes
        if outcomes:
            # Unchanged samples do not wait for the decoding of the others.
            self._deliver(outcomes)
        interim = _InterimTexts(
            [batch[row] for row in changed],
            [self._gate.last_text(batch[row]) if self._gate.is_changed(distances[row]) else None for row in changed],
            Times(taken, encoded, encoded),
            text=self._model.text,
            deliver=self._deliver,
            interval=self.options.interim_interval,
            monotonic=self._monotonic,
        )
        results = self._model.decode(
            embeddings if len(changed) == len(batch) else embeddings[changed],
            streams=[batch[row].stream for row in changed],
            on_text=interim.listener,
        )
        times = Times(taken, encoded, self._monotonic())
        return [
            self._commit(batch[row], features[row], distances[row], result, times, shown=shown)
            for row, result, shown in zip(changed, results, interim.shown, strict=True)
        ]

    def _commit(
        self, sample: Sample, features: Features, distance: float, result: Decoded, times: Times, *, shown: bool
    ) -> Outcome:
        if math.isnan(result.logprob):
            return self._failed(sample, FloatingPointError("the model's log-probability is not a number"))
        judgement = self._gate.classify(sample, features, distance, result.text)
        # A caption whose interim was shown must become final, even with the same text.
        if judgement.verdict is Verdict.UNCHANGED and not shown:
            self.statistics.duplicates += 1
            return Unchanged(sample, decoded=True)
        if judgement.verdict is Verdict.UNCONFIRMED:
            self.statistics.unconfirmed += 1
            return Unconfirmed(sample)
        self._gate.commit(sample, features, result.text, first=judgement.first)
        self.statistics.captioned += 1
        return Captioned(sample, result.text, result.logprob, times, judgement.first, result.confidence)

    def _failed(self, sample: Sample, error: Exception) -> Failed:
        self._failures.report(error, f"stream {sample.stream}")
        self.statistics.failed += 1
        return Failed(sample, describe(error))


class _InterimTexts:
    """Delivers interim texts while rows are decoded: rate-limited, and only where they differ from the last final.

    Parameters:
        last_texts: the last final of each row; None: no interim texts for this row.
        times: of the batch, up to its encoding.
        text: makes text of tokens.
        interval: minimum seconds between two texts of a row; 0 or less: no interim texts.
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
        self.shown = [False] * len(samples)
        self._samples = samples
        self._last_texts = last_texts
        self._times = times
        self._text = text
        self._deliver = deliver
        self._interval = interval
        self._monotonic = monotonic
        self._next_at = [times.encoded] * len(samples)
        enabled = interval > 0 and any(text is not None for text in last_texts)
        self.listener = self._on_text if enabled else None

    def _on_text(self, row: int, tokens: list[int]) -> None:
        last_text, now = self._last_texts[row], self._monotonic()
        if last_text is None or now < self._next_at[row]:
            return
        text = self._text(tokens).strip()
        # It may still become the same text as the last final.
        if not text or last_text.startswith(text):
            return
        self._next_at[row] = now + self._interval
        self.shown[row] = True
        self._deliver([Interim(self._samples[row], text, replace(self._times, decoded=now))])
