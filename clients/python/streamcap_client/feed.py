"""`Feed`: an async iterator of events that reconnects and takes up where it was."""

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

from streamcap_client.events import Caption, Event, Extend, ProtocolError, Status, parse

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 15.0
_MOST_MESSAGE_BYTES = 2**20
# A few messages ahead at most; the rest waits in the service, under its drop policy.
_QUEUE_MESSAGES = 8
# The service says what is wrong with us; asking again would not help.
_FINAL_CODES = frozenset({1003, 1007, 1008, 1009, 4404})


class RefusedError(Exception):
    """The service will not serve this feed: `status` is its HTTP status or websocket close code."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{reason} ({status})")
        self.status = status
        self.reason = reason


class Feed:
    """Events of a service's streams, each once, in order. Iterate it in one task.

    Parameters:
        url: of the service, `http://host:8642` (`ws://`, `https://` and `host:8642` do as well).
        streams: names; none: all, those to come included.
        interim: whether captions come while they are being written, not only when they are done.
        min_interval: seconds between two interim captions of one stream.
        token: where the service asks for one.
        since: the last `seq` already had, of each stream (`Feed.seen` of an earlier run).
        first_pause, longest_pause: seconds before a reconnection; they grow from one to the other, jittered.

    Raises ValueError for an address that is none. Iterating raises RefusedError when the service refuses, and ends
    after `close`. Nothing is read ahead of the iteration but a few messages, so a slow reader is slow to the service
    too, which then drops by its own policy.
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
        """The last `seq` given out, by stream."""
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
        """The websocket's address for what was asked and seen so far; the token is not in it."""
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
                    if self._closed.is_set():  # `close` came while we were connecting
                        return
                    async for message in connection:
                        pause = self._first_pause
                        event = parse(message)
                        if self._is_new(event):
                            yield event
                    # A normal close from the other side.
                    _raise_if_final(connection.close_code, connection.close_reason)
            except InvalidStatus as error:
                self._judge(error)
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
            max_size=_MOST_MESSAGE_BYTES,
            max_queue=_QUEUE_MESSAGES,
        )

    def _is_new(self, event: Event) -> bool:
        """Note the event's number; False for one that was had before."""
        if not isinstance(event, (Caption, Extend, Status)):
            return True
        if event.seq <= self.seen.get(event.stream, 0):
            return False
        self.seen[event.stream] = event.seq
        return True

    def _judge(self, error: InvalidStatus) -> None:
        """Raise what is final; a service that began anew and does not know our numbers is followed from now on."""
        response = error.response
        try:
            detail = str(json.loads(response.body or b"{}")["detail"])
        except (ValueError, KeyError, TypeError):
            detail = response.reason_phrase
        if response.status_code == 400 and self.seen and detail.startswith("since="):
            log.warning("caption feed: %s; going on with what comes", detail)
            self.seen.clear()
        elif response.status_code < 500:
            raise RefusedError(response.status_code, detail) from error


def _checked(url: str) -> str:
    """`url` with its scheme, http where it has none. Raises ValueError."""
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(whole)
        # A port that is no number is found when it is asked for.
        sound = parts.scheme in ("http", "https", "ws", "wss") and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise ValueError(f"{url!r} is no address of a service: write it as http://host:8642")
    return whole


def _raise_if_final(code: int | None, reason: str | None) -> None:
    if code in _FINAL_CODES:
        raise RefusedError(code or 0, reason or "closed")
