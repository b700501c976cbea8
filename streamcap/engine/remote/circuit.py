"""`Circuit`: whether to send requests to a server that has failed. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable

MIN_PAUSE_S = 0.5
MAX_PAUSE_S = 2.0
"""A server that has come back captions again within 5 s: a pause, an attempt, and the next sample with its answer."""


class Circuit:
    """Closed while the server answers. After a failure it is open for a pause, which doubles with each failure up to
    MAX_PAUSE_S, with jitter; a failure may ask for a longer one. Then one request at a time tries, until one succeeds.
    """

    def __init__(self, monotonic: Callable[[], float], rng: random.Random | None = None) -> None:
        self.reason = ""
        """Why the circuit is open; empty while it is closed."""
        self._monotonic = monotonic
        self._rng = rng or random.Random()
        self._pause = MIN_PAUSE_S
        self._until = 0.0
        self._trying = False

    @property
    def is_closed(self) -> bool:
        return not self.reason

    @property
    def pause(self) -> float:
        """Seconds until a request may try; 0 if one may now."""
        return 0.0 if self.is_closed else max(0.0, self._until - self._monotonic())

    @property
    def may_begin(self) -> bool:
        """Whether a request may start now."""
        return self.is_closed or (not self._trying and self.pause == 0)

    def begin(self) -> bool:
        """Start a request if one may start. End it by `succeed`, `fail` or `abandon`."""
        if not self.may_begin:
            return False
        self._trying = not self.is_closed
        return True

    def succeed(self) -> None:
        self.reason, self._pause, self._trying = "", MIN_PAUSE_S, False

    def fail(self, reason: str, pause: float | None) -> None:
        """A request failed. pause: seconds that it asks for; None: the growing pause."""
        own = self._pause * self._rng.uniform(0.5, 1.0)
        self._pause = min(MAX_PAUSE_S, 2 * self._pause)
        # Requests that fail together grow the pause once each at most; a longer pause of one of them holds.
        until = self._monotonic() + (own if pause is None else max(pause * self._rng.uniform(1.0, 1.1), own))
        self._until = until if self._trying or self.is_closed else max(self._until, until)
        self.reason, self._trying = reason, False

    def abandon(self) -> None:
        """A request was cancelled: nothing is known."""
        self._trying = False
