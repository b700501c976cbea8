"""Untrusted bytes over real sockets cause no traceback, no status 500 and no memory growth."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import grammar
from tests.fuzz.budget import EXAMPLES, fuzz
from tests.fuzz.service import Service, no_peak

pytestmark = pytest.mark.slow

HANDSHAKE = (
    b"GET /captions?stream=door HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
STATUS = re.compile(rb"\AHTTP/1\.1 (\d{3}) ")
ALLOWED = {100, 101, *range(200, 500), 501, 503}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    # With `make fuzz` most of it is what Hypothesis keeps of its inputs.
    with no_peak(1000 if EXAMPLES else 200), Service() as service:
        yield service
        while service.app.state.broadcaster.present:
            pass
        assert service.tasks() < 20
        grown = service.growth_of_repeats()
        assert grown < 10, f"{grown:.1f} MB more"


@fuzz(0.3, 40)
@given(st.lists(grammar.requests(), min_size=1, max_size=3))
def test_http_request(service: Service, requests: list[bytes]) -> None:
    answer = service.exchange(*requests)
    if answer:
        status = STATUS.match(answer)
        assert status is not None, answer[:200]
        assert int(status[1]) in ALLOWED, answer[:500]
    service.check()


@fuzz(0.15, 25)
@given(st.lists(grammar.frames(), max_size=6))
def test_websocket_frames(service: Service, frames: list[bytes]) -> None:
    answer = service.exchange(HANDSHAKE, *frames)
    assert not answer or answer.startswith(b"HTTP/1.1 101 ")
    service.check()


@fuzz(0.02, 10)
@given(st.sampled_from(["whip/tab", "whep/door"]), grammar.SDP)
def test_offer(service: Service, path: str, sdp: bytes) -> None:
    head = f"POST /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/sdp\r\n"
    answer = service.exchange(f"{head}Content-Length: {len(sdp)}\r\n\r\n".encode() + sdp)
    assert not answer or int(answer[9:12]) in ALLOWED, answer[:500]
    service.check()
