"""The HTTP client against a scripted server: every way in which a server can fail, with its reason."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any

import pytest

from streamcap.engine.model_settings import ModelSettings
from streamcap.engine.remote.client import RemoteClient
from streamcap.engine.remote.failure import RemoteError
from testbed.http.chat_server import (
    ChatServer,
    Handler,
    answering,
    breaking_off,
    chat_server,
    delta,
    replying,
    silent,
    stalling,
    start_answer,
    write_chunk,
)
from testbed.timeouts import TIMEOUT_FACTOR
from tests.engine.remote import recorded

BODY = b'{"model":"m"}'
HTML = b"<!doctype html><title>Login</title>"


async def ask(server: ChatServer, **settings: Any) -> tuple[str, list[str]]:
    """The answer's text, and the texts on the way."""
    client, texts = RemoteClient(ModelSettings("openai:m", url=server.url, key="sk-secret-1", **settings)), []
    try:
        async with asyncio.timeout(TIMEOUT_FACTOR):
            return (await client.ask(BODY, texts.append)).text, texts
    finally:
        await client.close()


async def test_streamed_answer_arrives_word_by_word() -> None:
    async with chat_server(answering("A man opens a door.", pause=0.01)) as server:
        text, texts = await ask(server)
    assert text.strip() == "A man opens a door."
    assert texts[0] == "A " and texts[-1] == text and len(texts) > 2
    (request,) = server.requests
    assert (request.path, request.headers["authorization"]) == ("/v1/chat/completions", "Bearer sk-secret-1")


async def test_connection_is_reused() -> None:
    connections = set()

    async def handle(received: Any, writer: asyncio.StreamWriter) -> None:
        connections.add(writer.get_extra_info("peername"))
        await answering("A man.")(received, writer)

    async with chat_server(handle) as server:
        client = RemoteClient(ModelSettings("openai:m", url=server.url))
        for _ in range(3):
            await client.ask(BODY)
        await client.close()
    assert len(connections) == 1


@pytest.mark.parametrize("name", recorded.ALL)
async def test_recorded_answer_of_server_is_understood(name: str) -> None:
    async with chat_server(replying("200 OK", recorded.ALL[name], "text/event-stream; charset=utf-8")) as server:
        assert (await ask(server))[0] == "A man opens a door."


async def test_server_that_does_not_stream_is_understood() -> None:
    answer = {"choices": [{"message": {"role": "assistant", "content": "A man."}, "finish_reason": "stop"}]}
    async with chat_server(replying("200 OK", json.dumps(answer).encode())) as server:
        assert (await ask(server))[0] == "A man."


async def empty(_received: Any, writer: asyncio.StreamWriter) -> None:
    await answering("")(_received, writer)


async def huge(_received: Any, writer: asyncio.StreamWriter) -> None:
    start_answer(writer)
    for _ in range(100):
        write_chunk(writer, delta("x" * 60_000))
        await writer.drain()


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (breaking_off("A man opens"), "the answer broke off before its end"),
        (empty, "the answer is empty"),
        (huge, "the answer is l"),
        (silent, "no answer within 0.3 s"),
        (stalling, "no complete answer within 0.6 s"),
        (replying("200 OK", HTML, "text/html"), "the server answers with text/html, not a chat completion"),
        (replying("200 OK", b'{"error":"x"}', "text/event-stream"), "the server says: x"),
        (replying("200 OK", b"{}", "application/octet-stream"), "answers with application/octet-stream"),
        (replying("200 OK", b"not json"), "the answer is not JSON"),
        (replying("500 Internal Server Error", b'{"error":{"message":"no memory"}}'), r"500: .*\(no memory\)"),
        (replying("502 Bad Gateway", HTML, "text/html"), "502: the server failed$"),
        (replying("429 Too Many Requests", b"", Retry_After="7"), "429: too many requests"),
        (replying("401 Unauthorized", b'{"error":{"message":"sk-secret-1?"}}'), r"401: .*\(\*\*\*\?\)"),
        (replying("404 Not Found", b'{"error":{"message":"no m"}}'), r"404: no such model .*\(no m\)"),
        (replying("301 Moved", b"", location="http://other/v1"), "redirects to http://other/v1"),
    ],
)
async def test_failure_has_a_true_reason(handler: Handler, reason: str) -> None:
    async with chat_server(handler) as server:
        with pytest.raises(RemoteError, match=reason) as failure:
            await ask(server, **({"first_token_timeout": 0.3, "timeout": 0.6} if "within" in reason else {}))
    assert "secret" not in failure.value.reason
    assert failure.value.pause == (
        7.0 if "429" in reason else 60.0 if "40" in reason or "redirects" in reason else None
    )


async def test_server_that_does_not_run_is_refused() -> None:
    async with chat_server(silent) as server:
        pass
    with pytest.raises(RemoteError, match=rf"127.0.0.1:{server.port}: connection refused; does the server run\?"):
        await ask(server)


async def test_unknown_host_is_named() -> None:
    client = RemoteClient(ModelSettings("openai:m", url="http://no-such-host.invalid/v1"))
    with pytest.raises(RemoteError, match=r"no-such-host\.invalid: no such host"):
        await client.ask(BODY)
    await client.close()


async def test_untrusted_certificate_is_refused(certificate: tuple[str, str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    async with chat_server(answering("A man."), context) as server:
        with pytest.raises(RemoteError, match=r"TLS failed: .*self"):
            await ask(server)


async def test_cancelled_request_is_closed() -> None:
    ended = asyncio.Event()

    async def handle(_received: Any, writer: asyncio.StreamWriter) -> None:
        start_answer(writer)
        await writer.drain()
        try:
            while not writer.is_closing():
                write_chunk(writer, delta("x"))
                await writer.drain()
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async with chat_server(handle) as server, asyncio.timeout(TIMEOUT_FACTOR):
        asking = asyncio.create_task(ask(server))
        while not server.requests:
            await asyncio.sleep(0.01)
        asking.cancel()
        await ended.wait()
