from __future__ import annotations

import pytest
from starlette.exceptions import HTTPException

from streamcap.server.offers import MAX_WAIT_SECONDS, OFFER_INTERVAL, OfferPace


def test_offers_are_spaced_and_the_line_is_bounded() -> None:
    pace = OfferPace()
    assert pace.reserve_seq(1000.0) == 0
    assert pace.reserve_seq(1000.0) == pytest.approx(OFFER_INTERVAL)
    delays = []
    with pytest.raises(HTTPException) as refused:
        delays.extend(pace.reserve_seq(1000.0) for _ in range(1000))
    assert delays[-1] <= MAX_WAIT_SECONDS < delays[-1] + OFFER_INTERVAL
    assert (refused.value.status_code, refused.value.headers, pace.refused) == (503, {"Retry-After": "2"}, 1)
    # Those refused took no place in the line; later there is none.
    assert pace.reserve_seq(1000.0 + MAX_WAIT_SECONDS) <= 2 * OFFER_INTERVAL
    assert pace.reserve_seq(2000.0) == 0
