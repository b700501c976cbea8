"""`streamcap serve`: captions live streams until SIGINT or SIGTERM."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamcap.cli.log_format import LogFormat, LogLevel, configure_logging
from streamcap.cli.serve_options import (
    build_options,
    given_options,
    models_of,
    reloader_of,
    state_of,
    use_file,
    with_masks,
)
from streamcap.errors import InputError, LostCaptionsError
from streamcap.image_spec import Fit
from streamcap.media.demand import Decode, Hwaccel
from streamcap.streams.options import DEFAULT_MIN_CONFIDENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from streamcap.captioner import Captioner
    from streamcap.config.config import Config
    from streamcap.engine.model_settings import ModelSettings

log = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.02
"""As `streamcap.engine.change_gate.DEFAULT_THRESHOLD`, whose module needs numpy."""
SHUTDOWN_TIMEOUT_S = 4.4
"""From the first signal to the end of the process, even if something hangs."""
LOG_TIMEOUT_S = 0.2
HUNG_WRITE_TIMEOUT_S = 2.0
"""For writes still in progress when everything else has ended."""
ERROR_EXIT_TIMEOUT_S = 1.0


_STREAMS, _MODEL, _FILES = "Streams", "Model", "Caption files"
_FEED, _SERVER, _SECURITY, _LOG = "Captions and feed", "Server", "Security", "Output"


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
    config: Annotated[
        Path | None,
        typer.Option(
            callback=use_file,
            is_eager=True,
            help="YAML file with options, models and streams; options of the command line win.",
            show_default=False,
            rich_help_panel=_STREAMS,
        ),
    ] = None,
    persist: Annotated[
        bool,
        typer.Option(
            "--persist",
            help="Keep changes of streams over HTTP for the next start, in --out or beside --config.",
            rich_help_panel=_STREAMS,
        ),
    ] = False,
    mask: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=X,Y X,Y X,Y",
            help="Polygon of stream NAME that nobody may see; 0,0 is the upper left corner, 1,1 the lower right one. "
            "Repeatable.",
            show_default=False,
            rich_help_panel=_STREAMS,
        ),
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between captions of a stream.", rich_help_panel=_STREAMS)] = 1.0,
    stall_after: Annotated[
        float,
        typer.Option(
            help="Report a stream as stalled after so many seconds without a frame.", rich_help_panel=_STREAMS
        ),
    ] = 2.0,
    read_timeout: Annotated[
        float, typer.Option(help="Reconnect after so many seconds without data.", rich_help_panel=_STREAMS)
    ] = 5.0,
    decode: Annotated[
        Decode,
        typer.Option(
            help="Frames of a camera to decode. auto: what captions and viewers need; keyframes: no others, even if "
            "captions become fewer.",
            rich_help_panel=_STREAMS,
        ),
    ] = "auto",
    hwaccel: Annotated[
        Hwaccel, typer.Option(help="Hardware that decodes, where there is one.", rich_help_panel=_STREAMS)
    ] = "auto",
    clip_seconds: Annotated[
        float, typer.Option(help="Seconds of video in one input of a clip model.", rich_help_panel=_STREAMS)
    ] = 4.0,
    model: Annotated[
        str,
        typer.Option(
            help="Model name, file, directory or openai:MODEL of --model-url: see `streamcap models`.",
            rich_help_panel=_MODEL,
        ),
    ] = "mini",
    model_url: Annotated[
        str | None,
        typer.Option(
            help="Server of an openai: model: http://127.0.0.1:11434/v1. Its key: STREAMCAP_MODEL_KEY.",
            show_default=False,
            rich_help_panel=_MODEL,
        ),
    ] = None,
    model_key_file: Annotated[
        Path | None,
        typer.Option(help="File with the server's key, instead of STREAMCAP_MODEL_KEY.", rich_help_panel=_MODEL),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(
            help="Local model that captions while the server of an openai: model fails.", rich_help_panel=_MODEL
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="What to ask a model that takes a prompt.", show_default="the model's own", rich_help_panel=_MODEL
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=_MODEL)] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, fp32, or a reduced one: see `streamcap models`.", rich_help_panel=_MODEL)
    ] = "auto",
    vision: Annotated[
        str | None,
        typer.Option(help="Vision tower for a checkpoint without one: directory or hub name.", rich_help_panel=_MODEL),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Tokenizer for a checkpoint without one: directory or hub name.", rich_help_panel=_MODEL),
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="How to fit images of another aspect ratio.", show_default="the model's own", rich_help_panel=_MODEL
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of the model.", show_default="auto", rich_help_panel=_MODEL),
    ] = None,
    change_threshold: Annotated[
        float,
        typer.Option(
            help="Cosine distance below which an image counts as unchanged; 0 captions every sample.",
            rich_help_panel=_FEED,
        ),
    ] = DEFAULT_THRESHOLD,
    refresh_interval: Annotated[
        float, typer.Option(help="Seconds until an unchanged image is captioned again.", rich_help_panel=_FEED)
    ] = 60.0,
    interim_rate: Annotated[
        float,
        typer.Option(
            min=0, max=1000, help="Maximum interim captions per second and stream; 0: none.", rich_help_panel=_FEED
        ),
    ] = 10.0,
    min_confidence: Annotated[
        float,
        typer.Option(
            help="Hold back captions of which the model is less sure than this (0 to 1); 0: none.",
            rich_help_panel=_FEED,
        ),
    ] = DEFAULT_MIN_CONFIDENCE,
    max_age: Annotated[
        float, typer.Option(help="Do not push captions older than so many seconds.", rich_help_panel=_FEED)
    ] = 10.0,
    replay_events: Annotated[
        int,
        typer.Option(help="Events kept in memory per stream, for viewers that reconnect.", rich_help_panel=_FEED),
    ] = 2048,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Directory for NAME.srt, NAME.vtt and NAME.jsonl.", show_default="no files", rich_help_panel=_FILES
        ),
    ] = None,
    rotate_bytes: Annotated[
        str,
        typer.Option(help="Rotate NAME.jsonl at this size, such as 100MB; 0: never.", rich_help_panel=_FILES),
    ] = "100MB",
    keep_days: Annotated[
        float | None,
        typer.Option(
            help="Rotate NAME.jsonl daily, and remove older parts after so many days.",
            show_default="keep all",
            rich_help_panel=_FILES,
        ),
    ] = None,
    keep_files: Annotated[
        int | None,
        typer.Option(
            help="Keep so many older parts of each NAME.jsonl.", show_default="keep all", rich_help_panel=_FILES
        ),
    ] = None,
    subtitle_window: Annotated[
        float, typer.Option(help="Seconds of captions in the rolling subtitle files.", rich_help_panel=_FILES)
    ] = 3600.0,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; non-loopback addresses require --token.", rich_help_panel=_SERVER),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free port.", rich_help_panel=_SERVER)] = 8642,
    root_path: Annotated[
        str,
        typer.Option(
            help="Path under which a proxy serves this service: /cams.", show_default=False, rich_help_panel=_SERVER
        ),
    ] = "",
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain (PEM): serve https.", rich_help_panel=_SERVER)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key (PEM) of the certificate.", rich_help_panel=_SERVER)] = None,
    ice_server: Annotated[
        list[str] | None,
        typer.Option(
            help="stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT, for WebRTC with browsers on other networks.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
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
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not print captions.", rich_help_panel=_LOG)] = False,
    log_level: Annotated[
        LogLevel, typer.Option(help="Least severe messages in the log.", rich_help_panel=_LOG)
    ] = "info",
    log_format: Annotated[
        LogFormat, typer.Option(help="Log lines for people, or one JSON object a line.", rich_help_panel=_LOG)
    ] = "text",
) -> None:
    """Caption live streams: websocket, web page and rolling subtitle files."""
    arguments = dict(locals())
    from streamcap.app import ServeOptions, serve_streams
    from streamcap.cli.console import print_captions
    from streamcap.server.http_server import allow_connections, listen

    configure_logging(log_level, log_format)
    file: Config | None = context.obj
    given = given_options(context)
    try:
        options = build_options(arguments)
    except InputError as error:
        raise (error if file is None else file.error(error, given)) from None
    named = parse_sources(sources or ([] if file is not None else ["scenes:"]))
    names = frozenset(name for name, _ in named if name is not None)
    masked, named = with_masks(named, mask or ())
    reloader = None if file is None else reloader_of(file, {name: arguments[name] for name in given}, names)
    state = state_of(out, reloader) if persist else None
    streams = state.streams() if state is not None else {} if file is None else file.streams
    serve_options = ServeOptions(
        sources=named,
        streams={name: stream for name, stream in streams.items() if name not in names} | masked,
        reloader=reloader,
        state=state,
        stream_options=options.streams,
        server=options.server,
        engine=options.engine,
        models=models_of(arguments, file, given),
        show=None if quiet else print_captions,
    )
    load = functools.partial(_load, threads=threads)
    # A port in use is reported before the model is loaded.
    with listen(options.server) as listener:
        allow_connections()
        on_signal = functools.partial(_start_timer, SHUTDOWN_TIMEOUT_S, _exit_now)
        _run(serve_streams(serve_options, load, listener, on_signal=on_signal))


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


def _load(settings: ModelSettings, *, threads: int | None) -> Captioner:
    from streamcap.captioner import load_captioner
    from streamcap.captioner.registry import describe_model

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    started_at = time.monotonic()
    captioner = load_captioner(
        settings.model,
        device=settings.device,
        precision=settings.precision,
        vision=settings.vision,
        tokenizer=settings.tokenizer,
        prompt=settings.prompt,
    )
    captioner.require_text()
    described = describe_model(settings.model, captioner.info["family"])
    log.info("%s (loaded in %.1f s)", described, time.monotonic() - started_at)
    return captioner


def _run(main: Coroutine[None, None, bool]) -> None:
    """Run `main`, then exit the process. Raises StreamcapError."""
    import uvloop

    async def bounded() -> bool:
        try:
            ended = await main
        except BaseException:  # re-raised; a cancellation counts too
            # Exit with this status even if the interpreter's shutdown hangs.
            _start_timer(ERROR_EXIT_TIMEOUT_S, os._exit, 1)
            raise
        # Closing the loop waits up to five minutes for threads, such as one that writes to a hung disk.
        _start_timer(HUNG_WRITE_TIMEOUT_S, _leave)
        return ended

    status = 0
    with contextlib.suppress(KeyboardInterrupt):
        try:
            uvloop.run(bounded())
        except LostCaptionsError as error:
            sys.stderr.write(f"streamcap: {error}\n")
            status = 1
        # Files are complete and viewers disconnected. The interpreter's shutdown can take seconds, and it aborts the
        # process if a thread is inside torch.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)


def _start_timer(seconds: float, function: Callable[..., object], *args: object) -> None:
    timer = threading.Timer(seconds, function, args)
    timer.daemon = True
    timer.start()


def _exit_now() -> None:
    """End the process because something hangs. From any thread, even if the log hangs too."""
    line = threading.Thread(target=log.error, args=("a disk or a device does not respond: exiting without it",))
    line.daemon = True
    line.start()
    line.join(LOG_TIMEOUT_S)
    os._exit(1)


def _leave() -> None:
    log.error("exiting although a file is still being written: the disk does not respond")
    logging.shutdown()
    os._exit(1)
