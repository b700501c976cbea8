"""`OfferPace`: how many WebRTC offers are answered a second."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException

# An answer takes 10 to 30 ms of the event loop, in parts of a few ms; at this pace captions go on between them.
OFFER_INTERVAL = 0.05
MAX_WAIT_SECONDS = 2.0


class OfferPace:
    """Spaces answers OFFER_INTERVAL apart, for WHIP and WHEP together. Offers that would wait longer than
    MAX_WAIT_SECONDS are refused, and counted.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._next = 0.0

    def reserve_seq(self, now: float) -> float:
        """Seconds to wait, from `now`, before the work on a new offer begins. Raises HTTPException (503)."""
        delay = max(0.0, self._next - now)
        if delay > MAX_WAIT_SECONDS:
            self.refused += 1
            raise HTTPException(503, "too many offers at a time", {"Retry-After": f"{MAX_WAIT_SECONDS:.0f}"})
        self._next = now + delay + OFFER_INTERVAL
        return delay

    def reserve_now(self) -> float:
        """`reserve_seq` by the running loop's clock."""
        return self.reserve_seq(asyncio.get_running_loop().time())
