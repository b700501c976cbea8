"""`OfferPace`: how many WebRTC offers are answered a second."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException

# An answer takes 10 to 30 ms of the event loop, in parts of a few ms; at this pace captions go on between them.
OFFER_INTERVAL = 0.05
MAX_WAITING = 40


class OfferPace:
    """Begins work on offers OFFER_INTERVAL apart, for WHIP and WHEP together, also after the loop was held up. While
    MAX_WAITING wait, further ones are refused, and counted.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._waiting = 0
        self._lock = asyncio.Lock()

    def check(self) -> None:
        """Raises HTTPException (503) where there is no room for one more."""
        if self._lock.locked() and self._waiting >= MAX_WAITING:
            self.refused += 1
            raise HTTPException(503, "too many offers at a time", {"Retry-After": "2"})

    async def turn(self) -> None:
        """Until the work on one more offer may begin. Raises HTTPException (503)."""
        self.check()
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        asyncio.get_running_loop().call_later(OFFER_INTERVAL, self._lock.release)
