"""`streamcap node`: one of many machines that run the same service over NATS JetStream."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from streamcap.cli.extra import require_extra
from streamcap.cli.service.log_format import configure_logging
from streamcap.cli.service.options import (
    MODEL,
    AllowLocal,
    AllowNet,
    ChangeThreshold,
    DecodeOption,
    Device,
    Every,
    FitOption,
    Host,
    LogFormatOption,
    LogLevelOption,
    Origin,
    Port,
    Precision,
    ReadTimeout,
    ReplayEvents,
    RootPath,
    Threads,
    TlsCert,
    TlsKey,
    Token,
    Tokenizer,
    ViewToken,
    Vision,
)
from streamcap.cli.service.process import exit_now, load_model, run_service, start_timer
from streamcap.cli.service.serve import DEFAULT_THRESHOLD, parse_sources
from streamcap.errors import InputError

_CLUSTER = "Cluster"
SHUTDOWN_TIMEOUT_S = 25.0
"""From the first signal to the end of the process: streams are handed over meanwhile."""

NatsUrls = Annotated[
    list[str],
    typer.Option(
        "--nats",
        envvar="STREAMCAP_NATS",
        help="nats://HOST:4222 or tls://HOST:4222 of a server; repeat it for each server.",
        rich_help_panel=_CLUSTER,
    ),
]
NatsCreds = Annotated[
    Path | None, typer.Option(help="Credentials file of a NATS user: JWT and key.", rich_help_panel=_CLUSTER)
]
NatsCa = Annotated[
    Path | None, typer.Option(help="CA certificates (PEM) of the NATS servers.", rich_help_panel=_CLUSTER)
]
NatsCert = Annotated[
    Path | None, typer.Option(help="Certificate (PEM) that this client shows to NATS.", rich_help_panel=_CLUSTER)
]
NatsKey = Annotated[Path | None, typer.Option(help="Key (PEM) of that certificate.", rich_help_panel=_CLUSTER)]


def node(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=URL ...]",
            help="Streams to add to the cluster, unless it knows the name. They run on any node of this site.",
            show_default=False,
        ),
    ] = None,
    nats: NatsUrls = ["nats://127.0.0.1:4222"],  # noqa: B006 - typer copies it
    roles: Annotated[
        str,
        typer.Option(
            help="ingest: decodes cameras; engine: runs the model; gateway: serves viewers. Separated by commas.",
            rich_help_panel=_CLUSTER,
        ),
    ] = "ingest,engine,gateway",
    site: Annotated[
        str,
        typer.Option(
            help="Only streams of this site run here: cameras that others cannot reach.", rich_help_panel=_CLUSTER
        ),
    ] = "default",
    name: Annotated[
        str,
        typer.Option(help="Name of this node, for people.", show_default="the host's name", rich_help_panel=_CLUSTER),
    ] = "",
    public_url: Annotated[
        str,
        typer.Option(
            help="URL of this node's gateway for clients and other nodes.",
            show_default="the address it listens on",
            rich_help_panel=_CLUSTER,
        ),
    ] = "",
    capacity: Annotated[
        int | None,
        typer.Option(min=1, help="Most streams that run here.", show_default="25 a CPU", rich_help_panel=_CLUSTER),
    ] = None,
    nats_creds: NatsCreds = None,
    nats_ca: NatsCa = None,
    nats_cert: NatsCert = None,
    nats_key: NatsKey = None,
    nats_replicas: Annotated[
        int,
        typer.Option(help="Copies of each log, when the first node makes them: 1, 3 or 5.", rich_help_panel=_CLUSTER),
    ] = 3,
    keep_hours: Annotated[
        float, typer.Option(help="How long logs are kept, when the first node makes them.", rich_help_panel=_CLUSTER)
    ] = 24.0,
    every: Every = 1.0,
    decode: DecodeOption = "auto",
    read_timeout: ReadTimeout = 5.0,
    change_threshold: ChangeThreshold = DEFAULT_THRESHOLD,
    replay_events: ReplayEvents = 2048,
    model: Annotated[
        str, typer.Option(help="Model name, file or directory: see `streamcap models`.", rich_help_panel=MODEL)
    ] = "mini",
    device: Device = "auto",
    precision: Precision = "auto",
    vision: Vision = None,
    tokenizer: Tokenizer = None,
    fit: FitOption = None,
    threads: Threads = None,
    host: Host = "127.0.0.1",
    port: Port = 8642,
    root_path: RootPath = "",
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token: Token = None,
    view_token: ViewToken = None,
    origin: Origin = None,
    allow_net: AllowNet = False,
    allow_local: AllowLocal = False,
    log_level: LogLevelOption = "info",
    log_format: LogFormatOption = "text",
) -> None:
    """Run one of many machines: cameras, captions and viewers are shared over NATS JetStream."""
    require_extra("cluster", "nats")
    from streamcap.app import ServeOptions
    from streamcap.cluster.connection import ClusterOptions
    from streamcap.engine.change_gate import ChangeGateOptions
    from streamcap.engine.engine import EngineOptions
    from streamcap.engine.model_settings import ModelSettings
    from streamcap.node import NodeOptions, run_node
    from streamcap.server.http.server import allow_connections, listen
    from streamcap.server.options import ServerOptions
    from streamcap.streams.options import StreamOptions

    configure_logging(log_level, log_format)
    named = parse_sources(sources or [])
    for source_name, url in named:
        if source_name is None:
            raise InputError(f"{url}: name it, as NAME={url}: nodes that start again must not add it twice")
    server_options = ServerOptions(
        host=host,
        port=port,
        publish_tokens=frozenset((token,)) if token is not None else frozenset(),
        view_tokens=frozenset((view_token,)) if view_token is not None else frozenset(),
        origins=frozenset(origin or ()),
        allow_net=allow_net,
        allow_local=allow_local,
        root_path=root_path,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    serve_options = ServeOptions(
        sources=named,
        stream_options=StreamOptions(
            every=every, decode=decode, read_timeout=read_timeout, replay_events=replay_events
        ),
        server=server_options,
        engine=EngineOptions(ChangeGateOptions(threshold=change_threshold)),
        models={model: ModelSettings(model, device, precision, vision, tokenizer, fit)},
    )
    options = NodeOptions(
        serve=serve_options,
        cluster=ClusterOptions(
            servers=tuple(nats),
            site=site,
            creds=nats_creds,
            ca=nats_ca,
            cert=nats_cert,
            key=nats_key,
            replicas=nats_replicas,
            keep_hours=keep_hours,
        ),
        roles=frozenset(role.strip() for role in roles.split(",") if role.strip()),
        name=name,
        capacity=capacity,
        url=public_url,
    )
    load = functools.partial(load_model, threads=threads)
    with listen(server_options) as listener:
        allow_connections()
        on_signal = functools.partial(start_timer, SHUTDOWN_TIMEOUT_S, exit_now)
        run_service(run_node(options, load, listener, on_signal=on_signal))
