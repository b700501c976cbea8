"""`RemoteClient`: sends one request and reads its streamed answer, by httpx."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx

from streamcap.engine.model_settings import ModelSettings
from streamcap.engine.remote import request
from streamcap.engine.remote.answer_stream import MAX_BYTES, AnswerStream
from streamcap.engine.remote.failure import RemoteError, hide_keys, of_status

_MAX_ERROR_BYTES = 20_000
_END_TIMEOUT_S = 0.2
_JSON = "application/json"
_SSE = "text/event-stream"


class RemoteClient:
    """For one event loop. Connections are kept and reused. Certificates are verified."""

    def __init__(self, settings: ModelSettings) -> None:
        url = settings.url or ""
        self._settings = settings
        self._url = request.endpoint(url)
        self._headers = request.headers(settings.key)
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=settings.connect_timeout),
            limits=httpx.Limits(max_keepalive_connections=settings.in_flight + 1),
            # A proxy of the environment cannot reach this machine.
            trust_env=not _is_loopback(urlsplit(url).hostname or ""),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def ask(self, body: bytes, on_text: Callable[[str], None] = lambda text: None) -> AnswerStream:
        """Send `body`; returns the whole answer. `on_text` is called with the text so far whenever it grows.

        Raises RemoteError.
        """
        settings = self._settings
        answer = AnswerStream(settings.key)
        try:
            async with asyncio.timeout(settings.timeout) as whole:
                await self._exchange(body, answer, on_text)
        except TimeoutError:
            if not whole.expired():
                raise
            raise RemoteError(f"no complete answer within {settings.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise RemoteError(hide_keys(_reason(error, settings), settings.key)) from None
        if not answer.text.strip():
            raise RemoteError("the answer is empty")
        return answer

    async def _exchange(self, body: bytes, answer: AnswerStream, on_text: Callable[[str], None]) -> None:
        limit = self._settings.first_token_timeout
        try:
            async with asyncio.timeout(limit) as first:
                async with self._http.stream("POST", self._url, content=body, headers=self._headers) as response:
                    await self._read(response, answer, on_text, lambda: first.reschedule(None))
        except TimeoutError:
            if not first.expired():
                raise
            raise RemoteError(f"no answer within {limit:g} s") from None

    async def _read(
        self,
        response: httpx.Response,
        answer: AnswerStream,
        on_text: Callable[[str], None],
        on_first: Callable[[], None],
    ) -> None:
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code != 200:
            content = await _content(response, _MAX_ERROR_BYTES)
            raise of_status(response.status_code, response.headers, content, key=self._settings.key)
        if kind == _JSON:  # the server does not stream
            answer.take((await _content(response, MAX_BYTES + 1)).decode("utf-8", "replace"))
            on_first()
            return
        if kind != _SSE:
            raise RemoteError(
                f"the server answers with {kind or 'no content type'}, not a chat completion; check --model-url"
            )
        chunks = response.aiter_bytes()
        async for chunk in chunks:
            if answer.feed(chunk):
                on_first()
                on_text(answer.text)
            if answer.is_done:
                # The connection can be used again once its response is read to the end.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_END_TIMEOUT_S):
                        async for _ in chunks:
                            pass
                return
        answer.end()


async def _content(response: httpx.Response, max_bytes: int) -> bytes:
    """At most `max_bytes` of the body; the rest is not read."""
    content = b""
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) >= max_bytes:
            if max_bytes > MAX_BYTES:
                raise RemoteError(f"the answer is larger than {MAX_BYTES // 1_000_000} MB")
            break
    return content[:max_bytes]


def _reason(error: httpx.HTTPError, settings: ModelSettings) -> str:
    """Why there was no response, on one line."""
    cause, message = _root(error), str(error)
    where = urlsplit(settings.url or "").netloc
    if isinstance(error, httpx.ConnectTimeout):
        return f"{where} does not answer within {settings.connect_timeout:g} s"
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return "the answer broke off before its end"
    if isinstance(error, httpx.ConnectError):
        if isinstance(cause, ssl.SSLError):
            message = getattr(cause, "verify_message", "") or cause.reason or message
            return f"{where}: TLS failed: {message}"
        if isinstance(cause, socket.gaierror):
            return f"{where}: no such host"
        if isinstance(cause, ConnectionRefusedError) or "refused" in message or "attempts failed" in message:
            return f"{where}: connection refused; does the server run?"
        return f"{where}: cannot connect ({message})"
    return f"{where}: {type(error).__name__}"


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
