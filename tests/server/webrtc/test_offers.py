from __future__ import annotations

import asyncio
import time

import pytest
from starlette.exceptions import HTTPException

from streamcap.server.webrtc import offers
from streamcap.server.webrtc.offers import OfferPace


async def test_turns_do_not_bunch_after_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "OFFER_INTERVAL", 0.01)
    pace, order = OfferPace(), []

    async def one(number: int) -> None:
        await pace.turn()
        order.append(number)

    tasks = [asyncio.create_task(one(number)) for number in range(5)]
    time.sleep(0.05)  # noqa: ASYNC251 - the loop is held up for several intervals
    for _ in range(3):
        await asyncio.sleep(0)
    assert order == [0]
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


async def test_offers_beyond_the_line_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offers, "MAX_WAITING", 2)
    pace = OfferPace()
    tasks = [asyncio.create_task(pace.turn()) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(HTTPException) as refused:
        pace.check()
    assert (refused.value.status_code, refused.value.headers, pace.refused) == (503, {"Retry-After": "2"}, 1)
    tasks[2].cancel()  # who goes away leaves its place
    await asyncio.wait((tasks[2],))
    pace.check()
    await asyncio.gather(*tasks[:2])
