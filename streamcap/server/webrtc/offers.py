"""`OfferPace`: limits how many WebRTC offers are answered per second."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException

# An answer takes 10 to 30 ms of the event loop, in steps of a few ms; at this rate captions are sent in between.
OFFER_INTERVAL = 0.05
MAX_WAITING = 40


class OfferPace:
    """Starts at most one offer, WHIP or WHEP, in OFFER_INTERVAL seconds. Policy when MAX_WAITING offers wait: further
    ones are refused and counted.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._waiting = 0
        self._lock = asyncio.Lock()

    def check(self) -> None:
        """Raises HTTPException (503) if MAX_WAITING offers wait already."""
        if self._lock.locked() and self._waiting >= MAX_WAITING:
            self.refused += 1
            raise HTTPException(503, "too many WebRTC offers at a time; try again in 2 s", {"Retry-After": "2"})

    async def turn(self) -> None:
        """Wait until the next offer may be answered. Raises HTTPException (503)."""
        self.check()
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        asyncio.get_running_loop().call_later(OFFER_INTERVAL, self._lock.release)
