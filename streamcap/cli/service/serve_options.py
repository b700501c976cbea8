"""The options of `streamcap serve`, made of its arguments and of the configuration file."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from streamcap.byte_size import parse_bytes
from streamcap.cli.service.file_flags import defaults, environment, file_flags
from streamcap.cli.service.options import STREAMS
from streamcap.errors import InputError

if TYPE_CHECKING:
    from streamcap.config.config import Config, StreamConfig
    from streamcap.config.reload import Reloader
    from streamcap.config.state_file import StateFile
    from streamcap.engine.engine import EngineOptions
    from streamcap.engine.model_settings import ModelSettings
    from streamcap.media.mask import Polygon
    from streamcap.server.options import ServerOptions
    from streamcap.service.changes import Wanted
    from streamcap.streams.options import StreamOptions


class Options(NamedTuple):
    """Of one service, checked."""

    server: ServerOptions
    streams: StreamOptions
    engine: EngineOptions


def build_options(values: Mapping[str, Any]) -> Options:
    """The options that `values`, the arguments of `serve` by name, describe. Raises InputError."""
    from streamcap.engine.change_gate import ChangeGateOptions
    from streamcap.engine.engine import EngineOptions
    from streamcap.server.ice import IceServer
    from streamcap.server.options import ServerOptions
    from streamcap.streams.options import StreamOptions
    from streamcap.streams.storage.file_rotation import RotationOptions

    rotate_bytes = parse_bytes(values["rotate_bytes"], "--rotate-bytes")
    rotation = RotationOptions(rotate_bytes, values["keep_days"], values["keep_files"])
    token, view_token, rate = values["token"], values["view_token"], values["interim_rate"]
    return Options(
        ServerOptions(
            host=values["host"],
            port=values["port"],
            publish_tokens=frozenset((token,)) if token is not None else frozenset(),
            view_tokens=frozenset((view_token,)) if view_token is not None else frozenset(),
            origins=frozenset(values["origin"] or ()),
            allow_net=values["allow_net"],
            allow_local=values["allow_local"],
            ice_servers=tuple(map(IceServer.parse, values["ice_server"] or ())),
            root_path=values["root_path"],
            tls_cert=values["tls_cert"],
            tls_key=values["tls_key"],
        ),
        StreamOptions(
            every=values["every"],
            out=values["out"],
            rotation=rotation,
            subtitle_window=values["subtitle_window"],
            replay_events=values["replay_events"],
            stall_after=values["stall_after"],
            read_timeout=values["read_timeout"],
            decode=values["decode"],
            hwaccel=values["hwaccel"],
            max_age=values["max_age"],
            min_confidence=values["min_confidence"],
            clip_seconds=values["clip_seconds"],
        ),
        EngineOptions(
            ChangeGateOptions(threshold=values["change_threshold"], refresh_interval=values["refresh_interval"]),
            interim_interval=1 / rate if rate > 0 else 0.0,
        ),
    )


def models_of(values: Mapping[str, Any], file: Config | None, given: Container[str]) -> dict[str, ModelSettings]:
    """The models by name; the first is the default: --model, else the file's first. Raises InputError."""
    from streamcap.engine.model_settings import REMOTE_PREFIX, ModelSettings, find_key

    names = ("model", "device", "precision", "vision", "tokenizer", "fit", "prompt", "fallback")
    key_file, is_remote = values["model_key_file"], str(values["model"]).startswith(REMOTE_PREFIX)
    if key_file is not None and not is_remote:
        raise InputError(f"--model-key-file: only for {REMOTE_PREFIX}MODEL, but --model is {values['model']}")
    base = ModelSettings(
        **{name: values[name] for name in names},
        url=values["model_url"],
        key=find_key(None if key_file is None else Path(key_file)) if is_remote else None,
    )
    if file is None:
        return {base.model: base}
    models = file.model_settings(base)
    default = values["model"] if "model" in given else file.default_model
    return {default: models.get(default, base), **models}


def with_masks(
    sources: Sequence[tuple[str | None, str]], masks: Sequence[str]
) -> tuple[dict[str, StreamConfig], list[tuple[str | None, str]]]:
    """The sources that `--mask NAME=X,Y X,Y X,Y` masks, by name, and the others. Polygons of one stream add up.

    Raises InputError.
    """
    from streamcap.config.config import StreamConfig
    from streamcap.media.mask import parse_polygon
    from streamcap.streams.settings import StreamSettings

    urls = {name: url for name, url in sources if name is not None}
    polygons: dict[str, list[Polygon]] = {}
    for text in masks:
        name, equals, points = text.partition("=")
        if not equals or name not in urls:
            raise InputError(
                f"--mask {text[:80]!r}: write NAME=X,Y X,Y X,Y with a name from the command line, as in NAME=URL"
            )
        polygons.setdefault(name, []).append(parse_polygon(points))
    masked = {}
    for name, mask in polygons.items():
        try:
            masked[name] = StreamConfig(urls[name], StreamSettings(mask=tuple(mask)))
        except InputError as error:
            raise InputError(f"--mask {name}: {str(error).removeprefix('mask: ')}") from None
    return masked, [(name, url) for name, url in sources if name not in masked]


def load_checked(path: Path, given: Mapping[str, Any] | None = None) -> Config:
    """The configuration file `path`, checked with `given`, the arguments that win over it. Starts nothing.

    Raises ConfigError; InputError if an argument is wrong, not the file.
    """
    from streamcap.config.config import load_config

    config = load_config(path, file_flags())
    given = environment() if given is None else given
    # Checked at the start only, because it creates the directory.
    values = {**defaults("server"), **config.server, **given, "out": None}
    try:
        build_options(values)
    except InputError as error:
        raise config.error(error, given) from None
    return config


def reloader_of(file: Config, given: Mapping[str, Any], named: frozenset[str]) -> Reloader:
    """Reloads `file`; the arguments `given` and the streams `named` of the command line win over it."""
    from streamcap.config.reload import Reloader

    path = Path(file.tree.file)
    return Reloader(file, lambda: load_checked(path, given), path, named=named)


def wanted_of(file: Config, given: Mapping[str, Any]) -> Wanted:
    """What `file` says, apart from streams, where the arguments `given` do not win over it. Raises InputError."""
    from streamcap.service.changes import Wanted

    # The directory of the files cannot change while the service runs.
    values = {**defaults("server"), **file.server, **given, "out": None}
    return Wanted(build_options(values).streams, models_of(values, file, given))


def state_of(out: Path | None, reloader: Reloader | None) -> StateFile:
    """The file of --persist. Raises InputError."""
    from streamcap.config.state_file import STATE_NAME, StateFile

    if out is not None:
        path = out / STATE_NAME
    elif reloader is not None:
        path = reloader.path.with_name(STATE_NAME)
    else:
        raise InputError("--persist: needs --out DIR or --config FILE, where the streams are kept")
    try:
        return StateFile(path, lambda: {} if reloader is None else reloader.config.streams)
    except InputError as error:
        raise InputError(f"--persist: {error}") from None


def given_options(context: typer.Context) -> set[str]:
    """Names of the options that the command line or an environment variable sets: they win over the file."""
    sources = ((name, context.get_parameter_source(name)) for name in context.params)
    return {name for name, source in sources if source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")}


def use_file(context: typer.Context, path: Path | None) -> Path | None:
    """A callback: the file's values become the defaults of all other options."""
    if path is not None:
        from streamcap.config.config import load_config

        context.obj = load_config(path, file_flags())
        context.default_map = {**context.obj.server, **context.obj.cluster}
    return path


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        callback=use_file,
        is_eager=True,
        help="YAML file with options, models and streams; options of the command line win.",
        show_default=False,
        rich_help_panel=STREAMS,
    ),
]
