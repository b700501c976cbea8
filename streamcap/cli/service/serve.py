"""`streamcap serve`: captions live streams until SIGINT or SIGTERM."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamcap.cli.service.file_flags import section_of_file
from streamcap.cli.service.log_format import configure_logging
from streamcap.cli.service.options import (
    OUTPUT,
    STREAMS,
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
from streamcap.cli.service.serve_options import (
    ConfigFile,
    build_options,
    given_options,
    models_of,
    reloader_of,
    state_of,
    wanted_of,
    with_masks,
)
from streamcap.errors import InputError
from streamcap.streams.options import DEFAULT_MIN_CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamcap.config.config import Config

log = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.02
"""As `streamcap.engine.change_gate.DEFAULT_THRESHOLD`, whose module needs numpy."""
SHUTDOWN_TIMEOUT_S = 4.4
"""From the first signal to the end of the process, even if something hangs."""


@section_of_file("server")
def serve(
    context: typer.Context,
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]URL ...",
            help="rtsp://, rtsps://, rtmp://, srt://, udp://, rtp://, http(s)://, a file, webcam:[DEVICE], whip: or "
            "scenes:. Default: scenes:, the built-in drawn scenes.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    persist: Annotated[
        bool,
        typer.Option(
            "--persist",
            help="Keep changes of streams over HTTP for the next start, in --out or beside --config.",
            rich_help_panel=STREAMS,
        ),
    ] = False,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X,Y X,Y X,Y",
            help="Polygon of stream NAME that nobody may see; 0,0 is the upper left corner, 1,1 the lower right one. "
            "Repeatable.",
            show_default=False,
            rich_help_panel=STREAMS,
        ),
    ] = None,
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
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Do not print captions.", rich_help_panel=OUTPUT)
    ] = False,
    log_level: LogLevelOption = "info",
    log_format: LogFormatOption = "text",
) -> None:
    """Caption live streams: websocket, web page and rolling subtitle files."""
    arguments = dict(locals())
    defer_collections()
    from streamcap.cli.service.console import print_captions
    from streamcap.server.http.server import allow_connections, listen
    from streamcap.service.app import ServeOptions, serve_streams

    configure_logging(log_level, log_format)
    file: Config | None = context.obj
    given = given_options(context)
    arguments_given = {name: arguments[name] for name in given}
    try:
        options = build_options(arguments)
    except InputError as error:
        raise (error if file is None else file.error(error, given)) from None
    named = parse_sources(sources or ([] if file is not None else ["scenes:"]))
    names = frozenset(name for name, _ in named if name is not None)
    masked, named = with_masks(named, mask or ())
    reloader = None if file is None else reloader_of(file, arguments_given, names)
    state = state_of(out, reloader) if persist else None
    streams = state.streams() if state is not None else {} if file is None else file.streams
    serve_options = ServeOptions(
        sources=named,
        streams={name: stream for name, stream in streams.items() if name not in names} | masked,
        reloader=reloader,
        wanted=functools.partial(wanted_of, given=arguments_given),
        state=state,
        stream_options=options.streams,
        server=options.server,
        engine=options.engine,
        models=models_of(arguments, file, given),
        show=None if quiet else print_captions,
    )
    load = functools.partial(load_model, threads=threads)
    # A port in use is reported before the model is loaded.
    with listen(options.server) as listener:
        allow_connections()
        on_signal = functools.partial(start_timer, SHUTDOWN_TIMEOUT_S, exit_now)
        run_service(serve_streams(serve_options, load, listener, on_signal=on_signal))


def parse_sources(arguments: Sequence[str]) -> list[tuple[str | None, str]]:
    """Name, or None, and URL of each `[NAME=]URL`. Raises InputError."""
    from streamcap.media.sources import check_url
    from streamcap.streams.options import check_name

    named_urls = [split_name(argument) for argument in arguments]
    names: set[str] = set()
    for name, url in named_urls:
        check_url(url)
        if name is None:
            continue
        if check_name(name) in names:
            raise InputError(f"two streams are named {name}; give each its own name: NAME=URL")
        names.add(name)
    return named_urls


def split_name(source: str) -> tuple[str | None, str]:
    """Split `NAME=URL`; the name is None if there is none. A name has no `:` or `?`; existing files are not split."""
    name, equals, url = source.partition("=")
    if not equals or ":" in name or "?" in name or _is_file(source):
        return None, source
    return name, url


def _is_file(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # name too long, or with NUL
        return False
