"""`load_config`: reads and checks a configuration file as a whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from streamcap.config.problems import ConfigError, Problem, suggestion
from streamcap.config.schema import NOT_YET, Flag, file_schema
from streamcap.config.yaml_tree import Path_, Tree, read_tree
from streamcap.engine.model_settings import REMOTE_PREFIX, ModelSettings, find_key
from streamcap.errors import InputError
from streamcap.media.sources.address import HostScope
from streamcap.media.sources.url import check_url
from streamcap.streams.options import check_name
from streamcap.streams.settings import StreamSettings

T = TypeVar("T")
DEFAULT_MODEL = "mini"
_LEADING_NAME = re.compile(r"(?:--)?(?P<name>[a-z][a-z_-]*)(?P<rest>\b.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """One stream, as the file or an HTTP client describes it."""

    url: str = field(repr=False)
    """Includes the password; never show it."""
    settings: StreamSettings = field(default_factory=StreamSettings)
    scope: HostScope = HostScope.ANY
    """The hosts that the source may connect to."""


@dataclass(frozen=True, slots=True)
class Config:
    """A valid configuration file."""

    tree: Tree = field(repr=False)
    server: Mapping[str, Any] = field(repr=False)
    """Options of `serve` that the file sets."""
    models: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """Fields of `ModelSettings` that the file sets, by the model's name."""
    streams: Mapping[str, StreamConfig]
    cluster: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Options of `node` alone that the file sets."""

    @property
    def default_model(self) -> str:
        """That of streams that name none, unless --model names another."""
        return str(self.server.get("model") or next(iter(self.models), DEFAULT_MODEL))

    def model_settings(self, base: ModelSettings) -> dict[str, ModelSettings]:
        """The models by name; device and precision are those of `base` where an entry has none. Raises InputError."""
        defaults = {"device": base.device, "precision": base.precision}
        return {name: ModelSettings(**{**defaults, **given}) for name, given in self.models.items()}

    def error(self, error: InputError, given: Container[str] = ()) -> InputError:
        """`error` of an option, at its line if the file sets that option and `given`, which wins, does not."""
        match = _LEADING_NAME.match(str(error))
        name = match["name"].replace("-", "_") if match else ""
        section = "server" if name in self.server else "cluster" if name in self.cluster else ""
        if isinstance(error, ConfigError) or not match or name in given or not section:
            return error
        return ConfigError([self.tree.problem((section, name), match["rest"].lstrip(": "))])


def load_config(path: Path, flags: Sequence[Flag], environ: Mapping[str, str] = os.environ) -> Config:
    """Read and check `path`. Raises ConfigError with all problems found."""
    return _checked(read_tree(path, environ), flags)


def _checked(tree: Tree, flags: Sequence[Flag]) -> Config:
    unsupported = [*_unsupported(tree)]
    schema = file_schema(flags)
    values = {name: value for name, value in tree.values.items() if name not in NOT_YET}
    if isinstance(values.get("server"), dict):
        values["server"] = {name: value for name, value in values["server"].items() if name not in NOT_YET}
    try:
        content = schema.model_validate(values).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ConfigError([*unsupported, *_problems(tree, schema, error)]) from None
    return _Builder(tree, content, unsupported).config()


class _Builder:
    """Checks what types cannot tell, and collects the problems."""

    def __init__(self, tree: Tree, content: Mapping[str, Any], problems: list[Problem]) -> None:
        self._tree = tree
        self._problems = problems
        self._server, self._cluster = (
            {name: value for name, value in (content.get(section) or {}).items() if value is not None}
            for section in ("server", "cluster")
        )
        self._models: Mapping[str, Mapping[str, Any]] = content.get("models") or {}
        self._streams: Mapping[str, Mapping[str, Any]] = content.get("streams") or {}

    def config(self) -> Config:
        models = {name: self._model(name, entry) for name, entry in self._models.items()}
        streams = {name: self._stream(name, entry) for name, entry in self._streams.items()}
        if self._problems:
            raise ConfigError(self._problems)
        return Config(self._tree, self._server, models, streams, self._cluster)

    def _fail(self, path: Path_, message: str) -> None:
        self._problems.append(self._tree.problem(path, message))

    def _try(self, path: Path_, call: Callable[[], T]) -> T | None:
        """The result of `call`; its InputError becomes a problem at `path`, or at the field that it names."""
        try:
            return call()
        except InputError as error:
            message = str(error)
            match = _LEADING_NAME.match(message)
            name = match["name"].replace("-", "_") if match else ""
            for field_name in (name, name.removeprefix("model_")):
                if match and (*path, field_name) in self._tree.lines:
                    path, message = (*path, field_name), match["rest"].lstrip(": ")
                    break
            self._fail(path, message)
            return None

    def _model(self, name: str, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        path = ("models", name)
        self._try(path, lambda: check_name(name))
        given = {key: value for key, value in entry.items() if key not in ("key_env", "key_file") and value is not None}
        given["key"] = self._try(path, lambda: self._key(path, entry))
        self._try(path, lambda: ModelSettings(**given))
        fallback = entry.get("fallback")
        if fallback is not None:
            local = [other for other, settings in self._models.items() if not _is_remote(settings)]
            if fallback not in local:
                self._fail((*path, "fallback"), f"no local model of this name; {suggestion(fallback, local)}")
        return given

    def _key(self, path: Path_, entry: Mapping[str, Any]) -> str | None:
        """The key of a remote model, of the environment or a file."""
        if not _is_remote(entry):
            return None
        if (variable := entry.get("key_env")) is None:
            file = entry.get("key_file")
            return find_key(None if file is None else Path(file))
        key = os.environ.get(variable)
        if not key:
            self._fail((*path, "key_env"), f"the environment variable {variable[:80]} is not set")
        return key

    def _stream(self, name: str, entry: Mapping[str, Any]) -> StreamConfig:
        path = ("streams", name)
        self._try(path, lambda: check_name(name))
        given = {key: value for key, value in entry.items() if key != "url"}
        url = self._try((*path, "url"), lambda: check_url(entry["url"]))
        settings = self._try(path, lambda: StreamSettings(**given))
        default = self._server.get("model") or ("" if self._models else DEFAULT_MODEL)
        known = {*self._models, str(default)} - {""}
        if (model := entry.get("model")) is not None and model not in known:
            self._fail((*path, "model"), f"no model is named {model[:80]!r}; {suggestion(model, known)}")
        return StreamConfig(url or "", settings or StreamSettings())


def _is_remote(entry: Mapping[str, Any]) -> bool:
    return str(entry.get("model", "")).startswith(REMOTE_PREFIX)


def _unsupported(tree: Tree) -> Iterator[Problem]:
    server = tree.values.get("server")
    for name in NOT_YET:
        for path, section in (((name,), tree.values), (("server", name), server)):
            if isinstance(section, dict) and name in section:
                yield tree.problem(path, "not supported by this version; remove it")


def _problems(tree: Tree, schema: type[BaseModel], error: ValidationError) -> Iterator[Problem]:
    """The problems that pydantic found; the values are not shown, because they may be secret."""
    for found in error.errors(include_url=False, include_input=False):
        path = tuple(part for part in found["loc"] if part != "[key]")
        kind, message = found["type"], found["msg"]
        if kind == "extra_forbidden":
            if path[:1] == ("models",) and path[-1] == "key":
                message = "keys do not belong into this file; use key_env: NAME or key_file: PATH"
            else:
                message = f"unknown key; {suggestion(str(path[-1]), _keys(schema, path[:-1]))}"
        elif kind == "missing":
            path, message = path[:-1], f"{path[-1]} is missing"
        elif kind in ("model_type", "dict_type"):
            message = "must be a mapping: one `key: value` a line"
        elif kind == "value_error":
            message = message.removeprefix("Value error, ")
        elif kind == "string_type":
            message = "must be text; put it in quotes"
        else:
            message = message.replace("Input should be", "must be").replace("a valid ", "a ").replace("a int", "an int")
        yield tree.problem(path, message)


def _keys(schema: type[BaseModel], path: Path_) -> list[str]:
    """The keys that the mapping at `path` may have."""
    kind: Any = schema
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
        else:
            kind = get_args(kind)[-1]
        arguments = [one for one in get_args(kind) if one is not type(None)]
        if type(None) in get_args(kind) and len(arguments) == 1:
            kind = arguments[0]
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
