"""Limits of the size of requests and responses."""

from __future__ import annotations

import asyncio

import pytest

from streamcap.captions.cue import Cue
from streamcap.captions.formats import srt
from streamcap.server.http import limits
from streamcap.server.http.limits import newest_cues
from testbed.timeouts import TIMEOUT_FACTOR
from tests.server.conftest import Server

pytestmark = pytest.mark.slow


async def exchange(server: Server, request: bytes) -> bytes:
    """The complete response to `request`, until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), TIMEOUT_FACTOR)
    finally:
        writer.close()


@pytest.mark.parametrize("path", ["/streams", "/captions/door", "/", "/healthz", "/nothing"])
async def test_long_target_is_414(server: Server, path: str) -> None:
    long = await server.http.get(f"{path}?{'x' * limits.MAX_TARGET_BYTES}")
    assert (long.status_code, long.headers["X-Content-Type-Options"]) == (414, "nosniff")
    assert len(long.content) < 200


async def test_long_headers_are_431(server: Server) -> None:
    # In one piece: the parser limits only heads that come in several.
    request = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * limits.MAX_HEAD_BYTES + b"\r\n\r\n"
    assert (await exchange(server, request)).startswith(b"HTTP/1.1 431 ")


async def test_long_target_of_websocket_is_414(server: Server) -> None:
    request = (
        f"GET /captions?x={'y' * 8100} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert (await exchange(server, request.encode())).startswith(b"HTTP/1.1 414 ")


@pytest.mark.parametrize(
    "body",
    [b'{"url": "rtsp://x", "%s": 1}' % (b"a" * 60_000), b'{"url": "rtsp://u:%s"}' % (b"p" * 60_000), b"[" * 60_000],
)
async def test_refusal_repeats_little_and_at_once(server: Server, body: bytes) -> None:
    began = asyncio.get_running_loop().time()
    refused = await server.http.post("/streams", content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 400
    assert len(refused.content) < 1100
    assert asyncio.get_running_loop().time() - began < 5  # redaction of it all takes half a minute


async def test_unknown_names_are_repeated_in_part(server: Server) -> None:
    names = ",".join(f"nobody-{number}" for number in range(600))
    refused = await server.http.get(f"/captions/{names[:7000]}")
    assert refused.status_code == 404
    assert len(refused.content) < 1100


async def test_both_lengths_close_the_connection(server: Server) -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    for method in (b"POST", b"GET", b"DELETE"):
        answer = await exchange(
            server,
            b"%s /streams HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 6\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s" % (method, smuggled),
        )
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1") == 1
        assert b"connection: close" in answer.lower()


def test_newest_cues_fill_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    cues = [Cue(1000 * number, 1000 * number + 900, "é" * 100) for number in range(1000)]
    assert newest_cues(cues) == cues
    monkeypatch.setattr(limits, "MAX_SUBTITLE_BYTES", 50_000)
    newest = newest_cues(cues)
    assert newest == cues[-len(newest) :]
    assert 45_000 < len(srt.render(newest).encode()) <= 50_000
