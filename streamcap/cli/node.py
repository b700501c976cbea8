"""`streamcap node`: one of many machines that run the same service over NATS JetStream."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from streamcap.cli.extra import require_extra
from streamcap.cli.log_format import LogFormat, LogLevel, configure_logging
from streamcap.cli.serve import (
    DEFAULT_THRESHOLD,
    _exit_now,
    _load,
    _run,
    _start_timer,
    parse_sources,
)
from streamcap.errors import InputError
from streamcap.image_spec import Fit
from streamcap.media.demand import Decode

_CLUSTER, _STREAMS, _MODEL, _SERVER, _SECURITY = "Cluster", "Streams", "Model", "Server", "Security"
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
    every: Annotated[float, typer.Option(help="Seconds between captions of a stream.", rich_help_panel=_STREAMS)] = 1.0,
    decode: Annotated[
        Decode,
        typer.Option(
            help="Frames of a camera to decode. auto: what captions and viewers need; keyframes: no others.",
            rich_help_panel=_STREAMS,
        ),
    ] = "auto",
    read_timeout: Annotated[
        float, typer.Option(help="Reconnect after so many seconds without data.", rich_help_panel=_STREAMS)
    ] = 5.0,
    change_threshold: Annotated[
        float,
        typer.Option(
            help="Cosine distance below which an image counts as unchanged; 0 captions every sample.",
            rich_help_panel=_STREAMS,
        ),
    ] = DEFAULT_THRESHOLD,
    replay_events: Annotated[
        int,
        typer.Option(help="Events kept in memory per stream, for viewers that reconnect.", rich_help_panel=_STREAMS),
    ] = 2048,
    model: Annotated[
        str, typer.Option(help="Model name, file or directory: see `streamcap models`.", rich_help_panel=_MODEL)
    ] = "mini",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_MODEL)] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, or a reduced one: see `streamcap models`.", rich_help_panel=_MODEL)
    ] = "auto",
    vision: Annotated[
        str | None, typer.Option(help="Vision tower for a checkpoint without one.", rich_help_panel=_MODEL)
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer for a checkpoint without one.", rich_help_panel=_MODEL)
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="How to fit images of another aspect ratio.", show_default="the model's own", rich_help_panel=_MODEL
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of the model.", show_default="auto", rich_help_panel=_MODEL)
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; non-loopback addresses require --token.", rich_help_panel=_SERVER)
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free port.", rich_help_panel=_SERVER)] = 8642,
    root_path: Annotated[
        str,
        typer.Option(help="Path under which a proxy serves this service.", show_default=False, rich_help_panel=_SERVER),
    ] = "",
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain (PEM): serve https.", rich_help_panel=_SERVER)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key (PEM) of the certificate.", rich_help_panel=_SERVER)] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="STREAMCAP_TOKEN",
            help="Token required to add and remove streams, to publish and to view.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    view_token: Annotated[
        str | None,
        typer.Option(envvar="STREAMCAP_VIEW_TOKEN", help="Second token, for viewing only.", rich_help_panel=_SECURITY),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(help="Allow pages of this origin (https://example.org) to connect.", rich_help_panel=_SECURITY),
    ] = None,
    allow_net: Annotated[
        bool,
        typer.Option(
            "--allow-net",
            help="Let HTTP clients add cameras on private and loopback addresses.",
            rich_help_panel=_SECURITY,
        ),
    ] = False,
    allow_local: Annotated[
        bool,
        typer.Option(
            "--allow-local",
            help="Let HTTP clients add files, devices, scenes and local UDP ports.",
            rich_help_panel=_SECURITY,
        ),
    ] = False,
    log_level: Annotated[LogLevel, typer.Option(help="Least severe messages in the log.")] = "info",
    log_format: Annotated[LogFormat, typer.Option(help="json: one object a line, for log collectors.")] = "text",
) -> None:
    """Run one of many machines: cameras, captions and viewers are shared over NATS JetStream."""
    require_extra("cluster", "nats")
    from streamcap.app import ServeOptions
    from streamcap.cluster.connection import ClusterOptions
    from streamcap.engine.change_gate import ChangeGateOptions
    from streamcap.engine.engine import EngineOptions
    from streamcap.engine.model_settings import ModelSettings
    from streamcap.node import NodeOptions, run_node
    from streamcap.server.http_server import allow_connections, listen
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
    load = functools.partial(_load, threads=threads)
    with listen(server_options) as listener:
        allow_connections()
        on_signal = functools.partial(_start_timer, SHUTDOWN_TIMEOUT_S, _exit_now)
        _run(run_node(options, load, listener, on_signal=on_signal))
