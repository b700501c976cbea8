"""`Feed`: an async iterator of events that reconnects and resumes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from streamcap_client.events import Caption, Event, Extend, Other, ProtocolError, Status, parse

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
_MAX_MESSAGE_BYTES = 2**20
# Read-ahead; further messages wait in the service, under its drop policy.
_QUEUE_MESSAGES = 8
# Close codes after which reconnecting cannot help.
_FINAL_CODES = frozenset({1003, 1007, 1008, 1009, 4404})


class RefusedError(Exception):
    """The service refused this feed: `status` is the HTTP status or websocket close code."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{reason} ({status})")
        self.status = status
        self.reason = reason


class Feed:
    """Events of a service's streams, each once, in order. Iterate in one task only.

    Parameters:
        url: of the service, `http://host:8642` (also `ws://`, `wss://`, `https://`, `host:8642`).
        streams: names; empty: all, including streams added later.
        interim: whether to receive interim captions, not only finals.
        min_interval: seconds between two interim captions of one stream.
        token: if the service requires one.
        since: the last `seq` received of each stream (`Feed.seen` of an earlier run).
        first_pause, longest_pause: seconds before a reconnection; the pause grows from first to longest, with jitter.

    Raises ValueError for an invalid address. Iterating raises RefusedError if the service refuses the feed, and ends
    after `close`. Only a few messages are read ahead, so for a slow reader the service drops events by its policy.
    """

    def __init__(
        self,
        url: str,
        *,
        streams: Iterable[str] = (),
        interim: bool = True,
        min_interval: float = 0.0,
        token: str | None = None,
        since: Mapping[str, int] | None = None,
        first_pause: float = FIRST_PAUSE_SECONDS,
        longest_pause: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        self.seen: dict[str, int] = dict(since or {})
        """The last `seq` delivered, by stream."""
        self.reconnections = 0
        self._url = _checked(url)
        self._streams = tuple(streams)
        self._interim = interim
        self._min_interval = min_interval
        self._token = token
        self._first_pause = first_pause
        self._longest_pause = longest_pause
        self._connection: ClientConnection | None = None
        self._closed = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._events()

    async def close(self) -> None:
        """End the iteration; idempotent."""
        self._closed.set()
        if self._connection is not None:
            await self._connection.close()

    def address(self) -> str:
        """The websocket URL that resumes after the events seen so far; without the token."""
        parts = urlsplit(self._url)
        scheme = "wss" if parts.scheme in ("https", "wss") else "ws"
        query: dict[str, str] = {}
        if self._streams:
            query["stream"] = ",".join(self._streams)
        if not self._interim:
            query["interim"] = "0"
        if self._min_interval:
            query["min_interval"] = f"{self._min_interval:g}"
        if self.seen:
            query["since"] = ",".join(f"{name}:{seq}" for name, seq in self.seen.items())
        path = f"{parts.path.rstrip('/')}/captions"
        return urlunsplit((scheme, parts.netloc, path, urlencode(query, quote_via=quote, safe=":,"), ""))

    async def _events(self) -> AsyncIterator[Event]:
        pause = self._first_pause
        while not self._closed.is_set():
            try:
                async with self._connect() as connection:
                    self._connection = connection
                    if self._closed.is_set():  # closed while connecting
                        return
                    async for message in connection:
                        pause = self._first_pause
                        event = parse(message)
                        if self._is_new(event):
                            yield event
                    # The service closed the connection normally.
                    _raise_if_final(connection.close_code, connection.close_reason)
            except InvalidStatus as error:
                self._handle_refusal(error)
            except ConnectionClosed as error:
                if error.rcvd is not None:
                    _raise_if_final(error.rcvd.code, error.rcvd.reason)
            except (OSError, InvalidHandshake, TimeoutError, ProtocolError, EOFError) as error:
                log.info("caption feed: %s", error)
            finally:
                self._connection = None
            if self._closed.is_set():
                return
            self.reconnections += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * random.uniform(0.5, 1.5)):
                    await self._closed.wait()
            pause = min(self._longest_pause, 2 * pause)

    def _connect(self) -> connect:
        return connect(
            self.address(),
            additional_headers={} if self._token is None else {"Authorization": f"Bearer {self._token}"},
            compression=None,
            max_size=_MAX_MESSAGE_BYTES,
            max_queue=_QUEUE_MESSAGES,
        )

    def _is_new(self, event: Event) -> bool:
        """Record the event's `seq`. False for an event already delivered."""
        match event:
            case Caption() | Extend() | Status():
                stream, seq = event.stream, event.seq
            case Other(
                message={"stream": str(stream), "seq": int(seq)}
            ):  # of a later version: numbered like all others
                pass
            case _:
                return True
        if seq <= self.seen.get(stream, 0):
            return False
        self.seen[stream] = seq
        return True

    def _handle_refusal(self, error: InvalidStatus) -> None:
        """Raise RefusedError unless retrying can help. After a restart without our `seq`, continue with new events."""
        response = error.response
        try:
            detail = str(json.loads(response.body or b"{}")["detail"])
        except (ValueError, KeyError, TypeError):
            detail = response.reason_phrase
        if response.status_code == 400 and self.seen and detail.startswith("since="):
            log.warning("caption feed: %s; continuing with new events", detail)
            self.seen.clear()
        elif response.status_code < 500:
            raise RefusedError(response.status_code, detail) from error


def _checked(url: str) -> str:
    """`url` with a scheme; http by default. Raises ValueError."""
    full_url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(full_url)
        # `port` raises ValueError if it is not a number.
        valid = parts.scheme in ("http", "https", "ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{url!r} is not the address of a service; use http://host:8642")
    return full_url


def _raise_if_final(code: int | None, reason: str | None) -> None:
    if code in _FINAL_CODES:
        raise RefusedError(code or 0, reason or "closed")
