"""`StreamRegistry`: the streams of the cluster and their configuration, in a bucket that all nodes watch."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nats.errors import Error as NatsError
from nats.js.errors import APIError, NotFoundError

from streamcap.captions.hub import UnknownStreamError
from streamcap.cluster.jetstream.connection import ClusterError, Connection
from streamcap.cluster.jetstream.subjects import INGEST_QUEUE, STREAMS_BUCKET, WorkQueue, check_site, name_of, token
from streamcap.cluster.log.reader import Message, StreamReader
from streamcap.errors import InputError
from streamcap.media.sources import check_url
from streamcap.media.sources.address import HostScope
from streamcap.streams.settings import StreamSettings
from streamcap.streams.stream_set import DuplicateStreamError

log = logging.getLogger(__name__)

_KEY_PREFIX = f"$KV.{STREAMS_BUCKET}."
_WRONG_LAST_SEQUENCE = 10071
ANSWER_SECONDS = 5.0
NO_ANSWER = "JetStream does not answer; retry in a moment"


class StreamChangedError(InputError):
    """Somebody else has changed the stream's configuration meanwhile."""


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """What the cluster knows of a stream. The bucket holds URLs with their passwords: protect NATS by credentials."""

    name: str
    url: str = field(repr=False)
    settings: StreamSettings
    site: str
    node: str = ""
    """The only node that may run it: the one that a WHIP publisher reached. Empty: any of the site."""
    revision: int = 0
    scope: HostScope = HostScope.ANY
    """The hosts that the source may connect to; limited for streams added over HTTP."""

    def as_json(self) -> bytes:
        message: dict[str, Any] = {"url": self.url, "site": self.site, "settings": self.settings.as_json()}
        message["scope"] = self.scope.value
        if self.node:
            message["node"] = self.node
        return json.dumps(message).encode()

    @classmethod
    def parse(cls, name: str, body: bytes, revision: int) -> StreamConfig:
        """Raises ValueError, InputError."""
        message = json.loads(body)
        if not isinstance(message, dict) or not isinstance(message.get("settings", {}), dict):
            raise ValueError("not the configuration of a stream")
        known = {name: value for name, value in message.get("settings", {}).items() if name in _SETTINGS}
        if "mask" in known:
            known["mask"] = tuple(tuple((x, y) for x, y in polygon) for polygon in known["mask"])
        return cls(
            name=name,
            url=check_url(str(message["url"])),
            settings=StreamSettings(**known),
            site=check_site(str(message.get("site", "default"))),
            node=str(message.get("node", "")),
            revision=revision,
            scope=HostScope(message.get("scope", HostScope.ANY)),
        )


_SETTINGS = frozenset(StreamSettings.__dataclass_fields__)


class StreamRegistry:
    """A copy of the bucket, kept up to date by `run`. Changes are made in the bucket, and come back from there."""

    def __init__(self, connection: Connection) -> None:
        self.site = connection.options.site
        self.streams: dict[str, StreamConfig] = {}
        self.observers: list[Callable[[str], None]] = []
        """Called with the name of each stream that was added, changed or removed."""
        self._connection = connection
        self._changed = asyncio.Event()
        self._reader = StreamReader(
            connection, f"KV_{STREAMS_BUCKET}", f"{_KEY_PREFIX}>", self._take, last_per_subject=True
        )

    @property
    def ready(self) -> asyncio.Event:
        """Set once the copy is complete."""
        return self._reader.caught_up

    async def run(self) -> None:
        """Until cancelled."""
        await self._reader.run()

    async def add(self, config: StreamConfig) -> StreamConfig:
        """Claim the name, and offer the stream to the nodes of its site.

        Raises DuplicateStreamError: two cannot take one name. ClusterError: JetStream does not answer.
        """
        try:
            revision = await self._put(config, expected=await self._tombstone(config.name))
        except _TakenError:
            raise DuplicateStreamError(f"stream {config.name} already exists; choose another name") from None
        if not config.node:
            await self.offer(config.name, config.site)
        return await self._until(config.name, revision)

    async def change(self, config: StreamConfig) -> StreamConfig:
        """Replace the configuration `config.revision` by `config`.

        Raises StreamChangedError if somebody else was faster, ClusterError.
        """
        try:
            revision = await self._put(config, expected=config.revision)
        except _TakenError:
            raise StreamChangedError(f"stream {config.name} was changed meanwhile; retry") from None
        if not config.node:
            await self.offer(config.name, config.site)
        return await self._until(config.name, revision)

    async def remove(self, name: str) -> None:
        """Remove a stream; its owner stops. Raises UnknownStreamError, ClusterError."""
        if name not in self.streams:
            raise UnknownStreamError(f"no stream is named {name[:80]!r}")
        await self._publish(f"{_KEY_PREFIX}{token(name)}", b"", {"KV-Operation": "DEL"})
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while name in self.streams:
                    await self._wait()
        except TimeoutError:
            raise ClusterError(NO_ANSWER) from None

    async def offer(self, name: str, site: str, queue: WorkQueue = INGEST_QUEUE) -> None:
        """Put the stream's message into the work queue, unless it is there."""
        with contextlib.suppress(_TakenError):  # it is in the queue, or an owner holds it
            await self._publish(queue.subject(site, name), b"", {"Nats-Expected-Last-Subject-Sequence": "0"})

    async def offer_missing(self, site: str, queue: WorkQueue, includes: Callable[[StreamConfig], bool]) -> int:
        """Offer the streams of `site` that are in no queue: the node that added them may have died before it did.

        Returns how many.
        """
        filter_ = queue.subjects_of(site)
        info = await self._connection.jetstream.stream_info(queue.stream, subjects_filter=filter_)
        queued = set(info.state.subjects or {})
        missing = [
            config
            for config in list(self.streams.values())
            if config.site == site and includes(config) and queue.subject(site, config.name) not in queued
        ]
        for config in missing:
            await self.offer(config.name, site, queue)
        return len(missing)

    def _take(self, message: Message) -> None:
        name = name_of(message.subject)
        if message.headers.get("KV-Operation") in ("DEL", "PURGE"):
            if self.streams.pop(name, None) is None:
                return
        else:
            try:
                self.streams[name] = StreamConfig.parse(name, message.body, message.sequence)
            except (ValueError, KeyError, TypeError, InputError) as error:
                log.warning("the configuration of stream %s is ignored: %s", name, error)
                return
        self._changed.set()
        for observe in self.observers:
            observe(name)

    async def _tombstone(self, name: str) -> int:
        """The revision of a removed stream of this name, after which it may be created again; else 0."""
        try:
            message = await self._connection.jetstream.get_last_msg(
                f"KV_{STREAMS_BUCKET}", f"{_KEY_PREFIX}{token(name)}"
            )
        except NotFoundError:
            return 0
        except (NatsError, OSError, TimeoutError):
            raise ClusterError(NO_ANSWER) from None  # not 0: then the name would seem taken
        removed = (message.headers or {}).get("KV-Operation") in ("DEL", "PURGE")
        return (message.seq or 0) if removed else 0

    async def _put(self, config: StreamConfig, expected: int) -> int:
        headers = {"Nats-Expected-Last-Subject-Sequence": str(expected)}
        return await self._publish(f"{_KEY_PREFIX}{token(config.name)}", config.as_json(), headers)

    async def _publish(self, subject: str, body: bytes, headers: dict[str, str]) -> int:
        try:
            answer = await self._connection.jetstream.publish(subject, body, timeout=ANSWER_SECONDS, headers=headers)
        except APIError as error:
            if error.err_code == _WRONG_LAST_SEQUENCE:
                raise _TakenError from None
            raise ClusterError(f"JetStream refuses: {error.description}") from None
        except (NatsError, OSError, TimeoutError):
            raise ClusterError(NO_ANSWER) from None
        return answer.seq

    async def _until(self, name: str, revision: int) -> StreamConfig:
        """The configuration, once this node's copy has that revision or a later one."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while (config := self.streams.get(name)) is None or config.revision < revision:
                    await self._wait()
        except TimeoutError:
            raise ClusterError(NO_ANSWER) from None
        return config

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class _TakenError(Exception):
    """The key or subject has another newest message than expected."""
