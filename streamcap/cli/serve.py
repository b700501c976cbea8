"""`streamcap serve`: caption live streams until told to stop."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from streamcap.errors import InputError, LostCaptionsError
from streamcap.redact import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from streamcap.captioner import Captioner

log = logging.getLogger(__name__)

# From the signal to the end of the process, whatever hangs.
END_SECONDS = 4.4
LOG_SECONDS = 0.2
HUNG_SECONDS = 2.0
"""For writes that are on their way when everything else has ended."""
ERROR_SECONDS = 1.0


def serve(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]URL ...",
            help="rtsp://, rtsps://, rtmp://, srt://, http(s)://, a file, webcam:[DEVICE], whip: or scenes:. "
            "Without any: scenes:, the built-in drawn scenes.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between captions of a stream.")] = 1.0,
    model: Annotated[str, typer.Option(help="A model's name, file or directory: see `streamcap models`.")] = "mini",
    out: Annotated[
        Path | None, typer.Option(help="Directory for NAME.srt, NAME.vtt and NAME.jsonl.", show_default="no files")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8642,
    token: Annotated[
        str | None,
        typer.Option(envvar="STREAMCAP_TOKEN", help="Needed to publish, add and remove streams, and to view."),
    ] = None,
    view_token: Annotated[
        str | None, typer.Option(envvar="STREAMCAP_VIEW_TOKEN", help="A second token that only lets view.")
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option(help="Origin of a page allowed to connect, besides this service's own.")
    ] = None,
    ice_server: Annotated[
        list[str] | None,
        typer.Option(
            help="stun:HOST:PORT or turn:USER:PASSWORD@HOST:PORT for browsers on other networks; none is asked unless "
            "given."
        ),
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="Path under which a proxy serves this service: /cams.", show_default=False)
    ] = "",
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM): serve https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Key (PEM) of the certificate.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, or a reduced one: see `streamcap models`.")] = "auto",
    vision: Annotated[
        str | None, typer.Option(help="Where the checkpoint has no vision tower: a directory or hub name.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Where the checkpoint has no tokenizer: a directory or hub name.")
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(help="crop, squash or pad images of another aspect.", show_default="the model's own"),
    ] = None,
    clip_seconds: Annotated[float, typer.Option(help="Seconds a clip model sees at a time.")] = 4.0,
    subtitle_window: Annotated[float, typer.Option(help="Seconds of the past in the rolling subtitle files.")] = 3600.0,
    replay_events: Annotated[int, typer.Option(help="Events of a stream in memory for viewers who come back.")] = 2048,
    refresh_interval: Annotated[
        float, typer.Option(help="Seconds after which a still image is captioned anew.")
    ] = 60.0,
    change_threshold: Annotated[
        float | None,
        typer.Option(
            help="Cosine distance below which an image counts as still; 0 captions every sample.",
            show_default="0.02",
        ),
    ] = None,
    interim_rate: Annotated[float, typer.Option(help="Interim texts a second of one stream; 0: none.")] = 10.0,
    max_age: Annotated[float, typer.Option(help="Seconds after which a caption is too late to be pushed.")] = 10.0,
    stall_after: Annotated[float, typer.Option(help="Seconds without a frame until a stream is stalled.")] = 2.0,
    read_timeout: Annotated[float, typer.Option(help="Seconds without data until a source is lost.")] = 5.0,
    keyframes_only: Annotated[
        bool, typer.Option("--keyframes-only", help="Decode keyframes alone: an eighth of the cost, few frames.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the model.", show_default="auto")] = None,
    allow_local: Annotated[
        bool, typer.Option("--allow-local", help="Let HTTP clients add files, devices and scenes, not URLs alone.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not print captions.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    """Caption live streams: websocket, web page and rolling subtitle files."""
    from streamcap.app import ServeOptions, serve_streams
    from streamcap.cli.console import print_captions
    from streamcap.engine.change_gate import DEFAULT_THRESHOLD, ChangeGateOptions
    from streamcap.engine.engine import EngineOptions
    from streamcap.image_spec import Fit
    from streamcap.media.sources import check_url
    from streamcap.server.http_server import allow_connections, listen
    from streamcap.server.ice import IceServer
    from streamcap.server.options import ServerOptions
    from streamcap.streams.options import StreamOptions, check_name

    _configure_logging(verbose=verbose)
    for option, value in (
        ("clip-seconds", clip_seconds),
        ("subtitle-window", subtitle_window),
        ("refresh-interval", refresh_interval),
        ("max-age", max_age),
        ("stall-after", stall_after),
        ("read-timeout", read_timeout),
    ):
        if not 0 < value < float("inf"):
            raise InputError(f"--{option} {value:g}: seconds, above 0")
    if fit is not None and fit not in get_args(Fit):
        raise InputError(f"--fit {fit}: it is one of {', '.join(get_args(Fit))}")
    if not 0 <= interim_rate < float("inf"):
        raise InputError(f"--interim-rate {interim_rate:g}: texts a second; 0 for none")
    if change_threshold is not None and not 0 <= change_threshold < 2:
        raise InputError(f"--change-threshold {change_threshold:g}: a cosine distance from 0 up to 2")
    options = ServerOptions(
        host=host,
        port=port,
        publish_tokens=frozenset((token,)) if token is not None else frozenset(),
        view_tokens=frozenset((view_token,)) if view_token is not None else frozenset(),
        origins=frozenset(origin or ()),
        allow_local=allow_local,
        ice_servers=tuple(map(IceServer.parse, ice_server or ())),
        root_path=root_path,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    stream_options = StreamOptions(
        every=every,
        out=out,
        subtitle_window=subtitle_window,
        replay_events=replay_events,
        stall_after=stall_after,
        read_timeout=read_timeout,
        keyframes_only=keyframes_only,
        max_age=max_age,
        clip_seconds=clip_seconds,
    )
    requested = [split_name(source) for source in sources or ["scenes:"]]
    last_sample_at: set[str] = set()
    for name, url in requested:
        check_url(url)
        if name is not None and check_name(name) in last_sample_at:
            raise InputError(f"two streams are named {name}; give each its own name: NAME=URL")
        last_sample_at.add(name or "")
    # Before the model is loaded: a port that is taken should be told at once.
    with listen(options) as listener:
        allow_connections()
        serve_options = ServeOptions(
            sources=requested,
            stream_options=stream_options,
            server=options,
            engine=EngineOptions(
                ChangeGateOptions(
                    threshold=DEFAULT_THRESHOLD if change_threshold is None else change_threshold,
                    refresh_interval=refresh_interval,
                ),
                interim_interval=1 / interim_rate if interim_rate > 0 else 0.0,
            ),
            fit=cast("Fit | None", fit),
            show=None if quiet else print_captions,
        )
        load = functools.partial(_load, model, device, precision, threads, vision=vision, tokenizer=tokenizer)
        _run(
            serve_streams(
                serve_options, load, listener, on_signal=functools.partial(_start_timer, END_SECONDS, _leave_now)
            )
        )


def split_name(source: str) -> tuple[str | None, str]:
    """`NAME=URL` into its parts; None for no name. What stands before a `:`, `?` or an existing file's `=` is none."""
    name, equals, url = source.partition("=")
    if not equals or ":" in name or "?" in name or _is_file(source):
        return None, source
    return name, url


def _is_file(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # longer than any file's name; a NUL in it
        return False


def _load(
    model: str, device: str, precision: str, threads: int | None, *, vision: str | None, tokenizer: str | None
) -> Captioner:
    from streamcap.captioner import load_captioner
    from streamcap.captioner.registry import describe_model

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    began = time.monotonic()
    captioner = load_captioner(model, device=device, precision=precision, vision=vision, tokenizer=tokenizer)
    captioner.require_text()
    log.info("%s (loaded in %.1f s)", describe_model(model, captioner.info["family"]), time.monotonic() - began)
    return captioner


def _run(main: Coroutine[None, None, bool]) -> None:
    """Run `main`, then end the process. Raises StreamcapError."""
    import uvloop

    async def bounded() -> bool:
        try:
            ended = await main
        except BaseException:
            # The error is told, and the process ended with its status, whatever the interpreter's end waits for.
            _start_timer(ERROR_SECONDS, os._exit, 1)
            raise
        # The loop's own end waits up to five minutes for threads, such as one that writes to a disk that hangs.
        _start_timer(HUNG_SECONDS, _leave)
        return ended

    status = 0
    with contextlib.suppress(KeyboardInterrupt):
        try:
            uvloop.run(bounded())
        except LostCaptionsError as error:
            sys.stderr.write(f"streamcap: {error}\n")
            status = 1
        # Files are whole and viewers told. The interpreter's end takes a busy machine seconds; and where a thread is
        # inside torch, it would unwind it there, through C++, which aborts the process.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)


def _start_timer(seconds: float, function: Callable[..., object], *args: object) -> None:
    timer = threading.Timer(seconds, function, args)
    timer.daemon = True
    timer.start()


def _leave_now() -> None:
    """End the process: something hangs. From any thread, even where the log hangs too."""
    line = threading.Thread(target=log.error, args=("a disk or a device does not answer: leaving without it",))
    line.daemon = True
    line.start()
    line.join(LOG_SECONDS)
    os._exit(1)


def _leave() -> None:
    log.error("a file is still being written, its disk does not answer: leaving it as it is")
    logging.shutdown()
    os._exit(1)


class RedactingFormatter(logging.Formatter):
    """Lines without secrets, tracebacks included: libav's exceptions name the URL with its password."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _configure_logging(*, verbose: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    logging.captureWarnings(capture=True)
    for noisy in ("libav", "aioice", "aiortc", "asyncio", "httpx", "uvicorn", "websockets"):
        logging.getLogger(noisy).setLevel(logging.INFO if verbose else logging.WARNING)
