"""`PendingSamples`: the samples of one stream that were submitted to the engine and have no outcome yet."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from streamcap.media.frame import Sample


class PendingSamples:
    """Tells how late outcomes are, and whether the newest sample has one. Create it on the event loop.

    The engine may drop an older sample for a newer one, so only the newest counts as waiting. A remote model's time is
    no delay of this machine: its samples (those with `images`) count as answered at once.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._created = monotonic()
        self._closed = False
        self._lock = threading.Lock()
        self._submitted: Sample | None = None
        self._answered: Sample | None = None
        self._changed = asyncio.Event()
        self._delay = 0.0
        self._waiting_since: float | None = None

    def submit(self, sample: Sample, engine: Callable[[Sample], None]) -> None:
        """Give `sample` to `engine`, which must not block. On the source's thread.

        That thread may outlive the stream: after `close` nothing is given, because the engine forgets the stream then.
        """
        with self._lock:
            if self._closed:
                return
            self._submitted = sample
            if self._waiting_since is None and not sample.images:
                self._waiting_since = sample.arrived
            engine(sample)

    def accepts(self, sample: Sample) -> bool:
        """Whether an outcome of `sample` still counts: not after `close`, nor from an earlier stream of this name."""
        return not self._closed and sample.submitted >= self._created

    def answer(self, sample: Sample) -> None:
        """The last outcome of `sample` has come."""
        self._answered = sample
        self._delay = 0.0 if sample.images else self._monotonic() - sample.arrived
        newest = self._submitted
        waits = newest is not None and not newest.images and not _is_same(newest, sample)
        self._waiting_since = newest.arrived if newest is not None and waits else None
        self._changed.set()

    def delay(self, now: float) -> float:
        """Seconds from the arrival of a sample to its outcome: of the newest outcome, or of one that waits longer."""
        since = self._waiting_since
        return self._delay if since is None else max(self._delay, now - since)

    def age(self, now: float) -> float | None:
        """Seconds since the arrival of the sample with the newest outcome; None before the first."""
        return None if self._answered is None else now - self._answered.arrived

    async def drain(self) -> None:
        """Wait until the newest sample has its outcome."""
        while self._submitted is not None and not _is_same(self._submitted, self._answered):
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """Outcomes no longer count."""
        with self._lock:
            self._closed = True


def _is_same(submitted: Sample, answered: Sample | None) -> bool:
    """Whether `answered` is `submitted`, or the copy of it that another model has captioned."""
    return answered is not None and answered.submitted == submitted.submitted
