"""Servers that send a byte now and then: no timeout of a socket notices them."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler

import pytest

from streamcap.media.sources.http.client import HttpClient
from tests.media.sources.test_http import serving

TIMEOUT = 0.3
# For thirty timeouts; after them the server closes the connection, which is another error.
BYTES = 300


def trickle(request: BaseHTTPRequestHandler, byte: bytes, end: threading.Event) -> None:
    for _ in range(BYTES):
        request.wfile.write(byte)
        if end.wait(TIMEOUT / 10):
            return


@pytest.mark.parametrize("start", [b"H", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_head_that_trickles_times_out(start: bytes) -> None:
    end = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(start)
        trickle(request, b"x", end)

    with serving(answer) as base, pytest.raises(TimeoutError):
        try:
            HttpClient(base, timeout=TIMEOUT).get()
        finally:
            end.set()


@pytest.mark.parametrize("body", [b"0", b"0\r\nX: "], ids=["chunk size", "trailer"])
def test_body_that_trickles_times_out(body: bytes) -> None:
    end = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        trickle(request, b"0", end)

    with serving(answer) as base:
        response = HttpClient(base, timeout=TIMEOUT).get()
        try:
            with response, pytest.raises(TimeoutError):
                response.read1(100)
        finally:
            end.set()
