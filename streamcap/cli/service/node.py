"""`streamcap node`: one of many machines that run the same service over NATS JetStream."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamcap.cli.extra import require_extra
from streamcap.cli.service.file_flags import defaults, file_flags, section_of_file
from streamcap.cli.service.log_format import configure_logging
from streamcap.cli.service.options import (
    AllowLocal,
    AllowNet,
    ChangeThreshold,
    ClipSeconds,
    DecodeOption,
    Device,
    Every,
    Fallback,
    FitOption,
    Host,
    HwaccelOption,
    IceServers,
    InterimRate,
    KeepDays,
    KeepFiles,
    LogFormatOption,
    LogLevelOption,
    MaxAge,
    MinConfidence,
    Model,
    ModelKeyFile,
    ModelUrl,
    Origin,
    Out,
    Port,
    Precision,
    Prompt,
    ReadTimeout,
    RefreshInterval,
    ReplayEvents,
    RootPath,
    RotateBytes,
    StallAfter,
    SubtitleWindow,
    Threads,
    TlsCert,
    TlsKey,
    Token,
    Tokenizer,
    ViewToken,
    Vision,
)
from streamcap.cli.service.process import defer_collections, exit_now, load_model, run_service, start_timer
from streamcap.cli.service.serve import DEFAULT_THRESHOLD, parse_sources
from streamcap.cli.service.serve_options import ConfigFile, build_options, given_options, models_of
from streamcap.errors import InputError
from streamcap.streams.options import DEFAULT_MIN_CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from streamcap.config.config import Config
    from streamcap.config.reload import Reloader
    from streamcap.service.node import NodeOptions

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


@section_of_file("cluster")
def node(
    context: typer.Context,
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
            help="ingest: decodes cameras; engine: runs the model; gateway: serves viewers; recorder: writes caption "
            "files in --out. Separated by commas.",
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
        typer.Option(
            min=1, help="Maximum number of streams on this node.", show_default="25 a CPU", rich_help_panel=_CLUSTER
        ),
    ] = None,
    nats_creds: NatsCreds = None,
    nats_ca: NatsCa = None,
    nats_cert: NatsCert = None,
    nats_key: NatsKey = None,
    nats_replicas: Annotated[
        int,
        typer.Option(help="Replicas of each log: 1, 3 or 5. The first node decides.", rich_help_panel=_CLUSTER),
    ] = 3,
    keep_hours: Annotated[
        float, typer.Option(help="Hours that logs are kept. The first node decides.", rich_help_panel=_CLUSTER)
    ] = 24.0,
    config: ConfigFile = None,
    every: Every = 1.0,
    stall_after: StallAfter = 2.0,
    read_timeout: ReadTimeout = 5.0,
    decode: DecodeOption = "auto",
    hwaccel: HwaccelOption = "auto",
    clip_seconds: ClipSeconds = 4.0,
    model: Model = "mini",
    model_url: ModelUrl = None,
    model_key_file: ModelKeyFile = None,
    fallback: Fallback = None,
    prompt: Prompt = None,
    device: Device = "auto",
    precision: Precision = "auto",
    vision: Vision = None,
    tokenizer: Tokenizer = None,
    fit: FitOption = None,
    threads: Threads = None,
    change_threshold: ChangeThreshold = DEFAULT_THRESHOLD,
    refresh_interval: RefreshInterval = 60.0,
    interim_rate: InterimRate = 10.0,
    min_confidence: MinConfidence = DEFAULT_MIN_CONFIDENCE,
    max_age: MaxAge = 10.0,
    replay_events: ReplayEvents = 2048,
    out: Out = None,
    rotate_bytes: RotateBytes = "100MB",
    keep_days: KeepDays = None,
    keep_files: KeepFiles = None,
    subtitle_window: SubtitleWindow = 3600.0,
    host: Host = "127.0.0.1",
    port: Port = 8642,
    root_path: RootPath = "",
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    ice_server: IceServers = None,
    token: Token = None,
    view_token: ViewToken = None,
    origin: Origin = None,
    allow_net: AllowNet = False,
    allow_local: AllowLocal = False,
    log_level: LogLevelOption = "info",
    log_format: LogFormatOption = "text",
) -> None:
    """Run one of many machines: cameras, captions and viewers are shared over NATS JetStream."""
    arguments = dict(locals())
    require_extra("cluster", "nats", "msgspec")
    defer_collections()
    from streamcap.server.http.server import allow_connections, listen
    from streamcap.service.node import run_node

    configure_logging(log_level, log_format)
    file: Config | None = context.obj
    given = given_options(context)
    try:
        options = _node_options(arguments, file, given)
        if file is not None:
            reloader = _reloader(file, arguments, {name: arguments[name] for name in given})
            options = replace(options, serve=replace(options.serve, reloader=reloader))
    except InputError as error:
        raise (error if file is None else file.error(error, given)) from None
    load = functools.partial(load_model, threads=threads)
    with listen(options.serve.server) as listener:
        allow_connections()
        on_signal = functools.partial(start_timer, SHUTDOWN_TIMEOUT_S, exit_now)
        run_service(run_node(options, load, listener, on_signal=on_signal))


def _reloader(file: Config, arguments: Mapping[str, Any], given: Mapping[str, Any]) -> Reloader:
    """Reloads `file`; the arguments `given` and the streams of the command line win over it."""
    from streamcap.config.config import load_config
    from streamcap.config.reload import SECTIONS, Reloader

    path = Path(file.tree.file)
    # The directory of the files cannot change while the node runs.
    fixed = {"sources": arguments["sources"], "out": arguments["out"]}

    def load() -> Config:
        config = load_config(path, file_flags())
        try:
            _node_options({**defaults("cluster"), **config.server, **config.cluster, **given, **fixed}, config, given)
        except InputError as error:
            raise config.error(error, given) from None
        return config

    named = frozenset(name for name, _ in parse_sources(arguments["sources"] or []) if name is not None)
    return Reloader(file, load, path, named=named, sections=(*SECTIONS, "cluster"))


def _node_options(values: Mapping[str, Any], file: Config | None, given: Container[str]) -> NodeOptions:
    """The options that `values`, the arguments of `node` by name, and `file` describe. Raises InputError."""
    from streamcap.cluster.jetstream.connection import ClusterOptions
    from streamcap.cluster.recorder.options import RecorderOptions
    from streamcap.service.app import ServeOptions
    from streamcap.service.node import NodeOptions

    sources = parse_sources(values["sources"] or [])
    for name, url in sources:
        if name is None:
            raise InputError(f"{url}: name it, as NAME={url}: nodes that start again must not add it twice")
    options, out = build_options(values), values["out"]
    named = {name for name, _ in sources}
    return NodeOptions(
        serve=ServeOptions(
            sources=sources,
            streams={} if file is None else {n: stream for n, stream in file.streams.items() if n not in named},
            stream_options=options.streams,
            server=options.server,
            engine=options.engine,
            models=models_of(values, file, given),
        ),
        cluster=ClusterOptions(
            servers=tuple(values["nats"]),
            site=values["site"],
            creds=values["nats_creds"],
            ca=values["nats_ca"],
            cert=values["nats_cert"],
            key=values["nats_key"],
            replicas=values["nats_replicas"],
            keep_hours=values["keep_hours"],
        ),
        roles=frozenset(role.strip() for role in values["roles"].split(",") if role.strip()),
        name=values["name"],
        capacity=values["capacity"],
        url=values["public_url"],
        recorder=(
            None if out is None else RecorderOptions(out, options.streams.rotation, options.streams.subtitle_window)
        ),
    )
