"""`Engine`: the one thread that owns the device. Samples go in from any thread, outcomes come out in lists."""

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


class Model(Protocol):
    """What the engine needs of a captioner. Embeddings are the model's own business: indexed by rows, no more."""

    def encode(self, pixels: Pixels) -> Any:
        """uint8 (B, H, W, 3) or (B, T, H, W, 3) → embeddings of B rows."""

    def features(self, embeddings: Any) -> Features:
        """(B, D) float32 of unit length, for the gate."""

    def decode(
        self, embeddings: Any, *, streams: Sequence[str], on_text: Callable[[int, list[int]], None] | None = None
    ) -> Sequence[Decoded]:
        """One result a row, each of the stream named in `streams`; `on_text(row, tokens so far)` as it goes."""

    def text(self, tokens: list[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class EngineOptions:
    gate: ChangeGateOptions
    max_batch: int = 64
    interim_interval: float = 0.1
    """Seconds between two interim texts of one stream; 0 or less: none."""

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError(f"max_batch {self.max_batch}: at least 1")


@dataclass(slots=True)
class EngineStatistics:
    """Counters since the start. Read from any thread; each is written by one."""

    samples: int = 0
    batches: int = 0
    captioned: int = 0
    decode_skipped: int = 0
    """Samples whose image had not moved."""
    duplicates: int = 0
    """Samples decoded to the sentence that was already on screen."""
    unconfirmed: int = 0
    """Samples decoded to another sentence that the next one had to bear out."""
    failed: int = 0
    superseded: dict[str, int] = field(default_factory=dict)
    busy_seconds: float = 0.0
    drafts: DraftStatistics = field(default_factory=DraftStatistics)
    """The model's passes and guessed tokens; whoever makes the engine puts a model's own here."""


class Engine:
    """Captions samples on one thread, a batch at a time across all streams.

    `deliver` is called on that thread with outcomes in each stream's order; it must not block (hand them to a loop).
    A stream has at most one sample in the batch, so its outcomes never overtake one another. When the model fails,
    the batch is tried again in halves, then row by row, so that one bad frame costs only itself, and what still fails
    is a `Failed` outcome: the service goes on. A device out of memory is the model's to handle. Numbers that are none
    (NaN) are a failure of the model.
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
        """Queue `sample`, in place of an older one of its stream that still waits. From any thread; never blocks."""
        with self._changed:
            if not self._stopping:
                self._queue.put(sample)
                self._changed.notify()

    def forget(self, stream: str) -> None:
        """A stream is no more. From any thread."""
        with self._changed:
            self._queue.forget(stream)
            self._forgotten.append(stream)

    def stop(self, timeout: float) -> bool:
        """End after the batch in hand; whether the thread has ended within `timeout` seconds. Idempotent."""
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
        except Exception as error:  # noqa: BLE001 - whatever a model raises must not end the device thread
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
        moved = [row for row in rows if not self._gate.is_unchanged(distances[row])]
        still = [row for row in rows if self._gate.is_unchanged(distances[row])]
        for row in still:
            self._gate.mark_unchanged(batch[row])
        self.statistics.decode_skipped += len(still)
        outcomes += [Unchanged(batch[row], decoded=False) for row in still]
        if not moved:
            return outcomes
        if outcomes:
            # Those whose scene is still need not wait for the others' decode.
            self._deliver(outcomes)
        interim = _InterimTexts(
            [batch[row] for row in moved],
            [self._gate.last_text(batch[row]) if self._gate.is_changed(distances[row]) else None for row in moved],
            Times(taken, encoded, encoded),
            text=self._model.text,
            deliver=self._deliver,
            interval=self.options.interim_interval,
            monotonic=self._monotonic,
        )
        results = self._model.decode(
            embeddings if len(moved) == len(batch) else embeddings[moved],
            streams=[batch[row].stream for row in moved],
            on_text=interim.listener,
        )
        times = Times(taken, encoded, self._monotonic())
        return [
            self._commit(batch[row], features[row], distances[row], result, times, shown=shown)
            for row, result, shown in zip(moved, results, interim.shown, strict=True)
        ]

    def _commit(
        self, sample: Sample, features: Features, distance: float, result: Decoded, times: Times, *, shown: bool
    ) -> Outcome:
        if math.isnan(result.logprob):
            return self._failed(sample, FloatingPointError("the model's log-probability is not a number"))
        judgement = self._gate.classify(sample, features, distance, result.text)
        # What was begun in sight of the viewer is finished there, even if it says the same again.
        if judgement.verdict is Verdict.UNCHANGED and not shown:
            self.statistics.duplicates += 1
            return Unchanged(sample, decoded=True)
        if judgement.verdict is Verdict.UNCONFIRMED:
            self.statistics.unconfirmed += 1
            return Unconfirmed(sample)
        self._gate.commit(sample, features, result.text, first=judgement.first)
        self.statistics.captioned += 1
        return Captioned(sample, result.text, result.logprob, times, judgement.first)

    def _failed(self, sample: Sample, error: Exception) -> Failed:
        self._failures.report(error, f"stream {sample.stream}")
        self.statistics.failed += 1
        return Failed(sample, describe(error))


class _InterimTexts:
    """Hands on text as it is decoded: of images that are news, rate-limited, and from where it says something new.

    Parameters:
        said: of each row what is on screen already; None: of this row nothing is to be shown.
        times: up to the encoded embeddings.
        text: of tokens.
        interval: seconds between two texts of a row; 0 or less: none is shown.
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
        wanted = interval > 0 and any(one is not None for one in last_texts)
        self.listener = self._on_text if wanted else None

    def _on_text(self, row: int, tokens: list[int]) -> None:
        last_texts, now = self._last_texts[row], self._monotonic()
        if last_texts is None or now < self._next_at[row]:
            return
        text = self._text(tokens).strip()
        # So far it may be the same sentence again, which would be no news at its end.
        if not text or last_texts.startswith(text):
            return
        self._next_at[row] = now + self._interval
        self.shown[row] = True
        self._deliver([Interim(self._samples[row], text, replace(self._times, decoded=now))])
