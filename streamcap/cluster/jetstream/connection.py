"""`connect`: the connection to NATS, with the JetStream streams and buckets that a cluster needs."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from streamcap.cluster.jetstream.ack_inbox import AckInbox
from streamcap.cluster.jetstream.direct_client import DirectClient
from streamcap.cluster.jetstream.subjects import (
    INGEST_QUEUE,
    LOG_STREAM,
    MODELS_BUCKET,
    NODES_BUCKET,
    RECORDED_STREAM,
    RECORDER_QUEUE,
    STREAMS_BUCKET,
    check_site,
)
from streamcap.errors import InputError, StreamcapError
from streamcap.redact import redact

log = logging.getLogger(__name__)

MIN_SERVER = (2, 9)
CONNECT_SECONDS = 3
ELECTION_SECONDS = 20.0
CLOSE_SECONDS = 2.0
NODE_TTL_SECONDS = 30.0
_NOT_REPLICATED = 10074
_NAME_IN_USE = 10058
_ELECTING = 10008
"""JetStream has no leader now."""


class ClusterError(StreamcapError):
    """NATS cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How to reach NATS, and what a cluster keeps there."""

    servers: tuple[str, ...]
    """`nats://host:port`, or `tls://`; with `user:password@` where the server wants it."""
    site: str = "default"
    """Cameras of this site only are run by this node's ingest."""
    creds: Path | None = None
    """File with a user's JWT and key (`nsc generate creds`)."""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    replicas: int = 3
    """Copies of every log. Without a cluster of servers: 1."""
    keep_hours: float = 24.0
    """How long the logs keep their messages."""

    def __post_init__(self) -> None:
        check_site(self.site)
        if not self.servers:
            raise InputError("--nats: name at least one server, as nats://127.0.0.1:4222")
        for server in self.servers:
            if server.partition("://")[0] not in ("nats", "tls", "ws", "wss"):
                raise InputError(f"--nats {redact(server)[:80]!r}: write it as nats://HOST:4222 or tls://HOST:4222")
        for flag, path in (
            ("--nats-creds", self.creds),
            ("--nats-ca", self.ca),
            ("--nats-cert", self.cert),
            ("--nats-key", self.key),
        ):
            if path is not None and not path.is_file():
                raise InputError(f"{flag} {path}: no such file")
        if self.creds is not None and not _has_credentials(self.creds):
            raise InputError(f"--nats-creds {self.creds}: no credentials of NATS in it: JWT and key of one user")
        if (self.cert is None) != (self.key is None):
            raise InputError("--nats-cert and --nats-key are needed together")
        if self.replicas not in (1, 3, 5):
            raise InputError(f"--nats-replicas {self.replicas}: use 1, 3 or 5")
        if not 0.1 <= self.keep_hours <= 24 * 365:
            raise InputError(f"--keep-hours {self.keep_hours:g}: use 0.1 to 8760")


def _has_credentials(path: Path) -> bool:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return False
    return "BEGIN NATS USER JWT" in text and "BEGIN USER NKEY SEED" in text


@dataclass(slots=True)
class Connection:
    """A connected client. `close` it."""

    client: DirectClient
    jetstream: JetStreamContext
    options: ClusterOptions
    replicas: int
    acks: AckInbox
    """For messages that JetStream must store."""
    keep_seconds: float
    """How long JetStream keeps a message of a log: the first node has decided."""

    @property
    def is_connected(self) -> bool:
        return bool(self.client.is_connected)

    @property
    def reconnections(self) -> int:
        return int(self.client.stats["reconnects"])

    async def close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.client.close()
        except Exception as error:  # noqa: BLE001 - the client raises many kinds, and nothing is left to do
            log.debug("closing the connection to NATS: %s", error)


async def connect(options: ClusterOptions, name: str, *, prepare: bool = True) -> Connection:
    """Connect as client `name`. `prepare`: create the streams and buckets that are missing.

    Raises ClusterError: no server reachable, wrong credentials, no JetStream, an old server.
    """
    tls = _tls(options)
    await _probe(options, tls)
    client = DirectClient()
    await client.connect(
        list(options.servers),
        name=name,
        tls=tls,
        user_credentials=None if options.creds is None else str(options.creds),
        allow_reconnect=True,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0,
        connect_timeout=2,
        ping_interval=2,
        max_outstanding_pings=2,
        pending_size=8 * 1024 * 1024,
        error_cb=_on_error,
        disconnected_cb=_on_disconnect,
        reconnected_cb=_on_reconnect,
    )
    connection = Connection(
        client, client.jetstream(timeout=5.0), options, options.replicas, AckInbox(client), options.keep_hours * 3600
    )
    try:
        await connection.acks.open()
        _check_version(client)
        await _retry_while_electing(_check_jetstream, connection)
        if prepare:
            await _retry_while_electing(_prepare, connection)
    except BaseException:  # also on cancellation: leave no connection behind
        await connection.close()
        raise
    return connection


async def _retry_while_electing(step: Callable[[Connection], Awaitable[None]], connection: Connection) -> None:
    """Try again while the servers elect a leader, which takes seconds. Raises ClusterError."""
    end = time.monotonic() + ELECTION_SECONDS
    while True:
        try:
            await step(connection)
        except (NatsError, TimeoutError) as error:
            if time.monotonic() >= end:
                raise ClusterError(
                    "JetStream does not answer: are most of the NATS servers down, or is the disk full? "
                    f"({error or type(error).__name__})"
                ) from None
            await asyncio.sleep(0.5)
        else:
            return


async def _probe(options: ClusterOptions, tls: ssl.SSLContext | None) -> None:
    """Find out whether a server lets us in: the client itself would retry without telling why."""
    reasons = []
    for server in options.servers:
        errors: list[Exception] = []

        async def note(error: Exception, errors: list[Exception] = errors) -> None:
            errors.append(error)

        probe = Client()
        try:
            await probe.connect(
                server,
                tls=tls,
                user_credentials=None if options.creds is None else str(options.creds),
                allow_reconnect=False,
                connect_timeout=CONNECT_SECONDS,
                # Else the client tries for two minutes.
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                error_cb=note,
            )
        except (OSError, NatsError, TimeoutError, ValueError) as error:
            reasons.append(f"{redact(server)}: {_reason(errors[0] if errors else error, tls=tls is not None)}")
            # The client leaves the socket of a refused connection open.
            transport = getattr(probe, "_transport", None)
            if transport is not None:
                transport.close()
        else:
            await probe.close()
            return
    raise ClusterError(f"NATS cannot be used: {'; '.join(reasons)}")


def _reason(error: BaseException, *, tls: bool) -> str:
    text = str(error).removeprefix("nats: ").strip("'\" ")
    lower = text.lower()
    if "authorization" in lower or "authentication" in lower or "credentials" in lower:
        return "the server refuses the credentials; check --nats-creds, or user and password in --nats"
    if isinstance(error, ssl.SSLError) or "ssl" in lower or "tls" in lower:
        return f"TLS failed ({text}); check tls:// in --nats, --nats-ca, --nats-cert and --nats-key"
    # With TLS 1.3 a server refuses the client's certificate after the client's handshake has ended.
    if tls and isinstance(error, ConnectionError) and not isinstance(error, ConnectionRefusedError):
        return f"the server closed the TLS connection ({text}); check --nats-ca, --nats-cert and --nats-key"
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS:g} s"
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno else error.strerror or text or type(error).__name__
    return text or type(error).__name__


def _tls(options: ClusterOptions) -> ssl.SSLContext | None:
    if options.ca is None and options.cert is None and not any(s.startswith(("tls:", "wss:")) for s in options.servers):
        return None
    try:
        context = ssl.create_default_context(cafile=None if options.ca is None else str(options.ca))
        if options.cert is not None and options.key is not None:
            context.load_cert_chain(options.cert, options.key, password="")
    except OSError as error:
        raise InputError(f"--nats-ca, --nats-cert or --nats-key: {error.strerror or error}") from None
    return context


def _check_version(client: Client) -> None:
    version = client.connected_server_version
    if (version.major, version.minor) < MIN_SERVER:
        wanted = ".".join(map(str, MIN_SERVER))
        raise ClusterError(f"nats-server {version.major}.{version.minor} is too old: use {wanted} or newer")


async def _check_jetstream(connection: Connection) -> None:
    try:
        await connection.jetstream.account_info()
    except (NoRespondersError, ServiceUnavailableError, NotFoundError) as error:
        detail = getattr(error, "description", "") or "no answer"
        if getattr(error, "err_code", None) == _ELECTING:
            raise
        raise ClusterError(
            f"the NATS server has no JetStream ({detail}): start it with `jetstream {{ store_dir: … }}` or -js"
        ) from None


async def _prepare(connection: Connection) -> None:
    options = connection.options
    keep = options.keep_hours * 3600
    for config in (
        *(
            StreamConfig(
                name=queue.stream,
                subjects=[queue.subjects],
                retention=RetentionPolicy.WORK_QUEUE,
                storage=StorageType.FILE,
                max_msgs_per_subject=1,
                discard=DiscardPolicy.OLD,
                duplicate_window=1,
            )
            for queue in (INGEST_QUEUE, RECORDER_QUEUE)
        ),
        StreamConfig(
            name=RECORDED_STREAM,
            subjects=["sc.rec.>"],
            max_msgs_per_subject=1,
            storage=StorageType.FILE,
            duplicate_window=120,
            allow_direct=False,
        ),
        StreamConfig(
            name=LOG_STREAM,
            subjects=["sc.cap.>"],
            storage=StorageType.FILE,
            max_age=keep,
            duplicate_window=120,
            allow_direct=False,
        ),
        _bucket(STREAMS_BUCKET),
        _bucket(MODELS_BUCKET),
        _bucket(NODES_BUCKET, storage=StorageType.MEMORY, max_age=NODE_TTL_SECONDS),
    ):
        await _add_stream(connection, config)


def _bucket(name: str, storage: StorageType = StorageType.FILE, max_age: float | None = None) -> StreamConfig:
    """A bucket is a stream whose newest message of each subject is the value of a key."""
    return StreamConfig(
        name=f"KV_{name}",
        subjects=[f"$KV.{name}.>"],
        max_msgs_per_subject=1,
        storage=storage,
        max_age=max_age,
        allow_rollup_hdrs=True,
        deny_delete=True,
        discard=DiscardPolicy.NEW,
        duplicate_window=1,
    )


async def _add_stream(connection: Connection, config: StreamConfig) -> None:
    jetstream = connection.jetstream
    try:
        info = await jetstream.stream_info(str(config.name))
    except NotFoundError:
        pass
    else:
        connection.replicas = info.config.num_replicas or 1
        if config.name == LOG_STREAM:
            connection.keep_seconds = info.config.max_age or connection.keep_seconds
        return
    while True:
        try:
            await jetstream.add_stream(config, num_replicas=connection.replicas)
        except APIError as error:
            if error.err_code == _NAME_IN_USE:
                return  # another node was faster
            if error.err_code == _NOT_REPLICATED and connection.replicas > 1:
                log.warning("the NATS server is not part of a cluster: captions are kept in one copy only")
                connection.replicas = 1
                continue
            if error.err_code == _ELECTING:
                raise
            raise ClusterError(
                f"JetStream cannot keep {config.name} in {connection.replicas} copies: {error.description}"
            ) from None
        return


async def _on_error(error: Exception) -> None:
    log.debug("NATS: %s", error)


async def _on_disconnect() -> None:
    log.warning("NATS: disconnected")


async def _on_reconnect() -> None:
    log.info("NATS: connected again")
