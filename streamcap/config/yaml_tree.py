"""`read_tree`: a YAML file as plain values, each with its line. Refuses what a configuration file never needs.

Scalars follow YAML 1.2: `no`, `on` and `12:30` are strings. Anchors, aliases and `<<` work, up to a total size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from streamcap.config.problems import ConfigError, Problem

MAX_BYTES = 1_000_000
MAX_VALUES = 50_000
"""Values in the file after aliases are expanded."""
MAX_DEPTH = 16

Path_ = tuple[str | int, ...]
_VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|\$\{[^}]*\}?")
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Tree:
    """The content of a file."""

    file: str
    values: dict[str, Any]
    lines: Mapping[Path_, int]
    """Line of each key and list entry, counted from 1, by its path: ("streams", "door", "mask", 0)."""

    def line(self, path: Path_) -> int | None:
        """Line of `path`, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)

    def problem(self, path: Path_, message: str) -> Problem:
        """A problem at `path`."""
        name = ".".join(map(str, path))
        return Problem(self.file, self.line(path), f"{name}: {message}" if name else message)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def read_tree(path: Path, environ: Mapping[str, str]) -> Tree:
    """Read `path`; `${NAME}` in a value is replaced by the environment variable, `$$` by `$`. Raises ConfigError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([Problem(str(path), None, f"cannot be read: {error.strerror or error}")]) from None
    except ValueError as error:  # NUL in the name
        raise ConfigError([Problem(str(path)[:200], None, f"cannot be read: {error}")]) from None
    return parse_tree(data, str(path), environ)


def parse_tree(data: bytes, file: str, environ: Mapping[str, str]) -> Tree:
    """As `read_tree`, of the content of a file."""
    if len(data) > MAX_BYTES:
        raise ConfigError([Problem(file, None, f"larger than {MAX_BYTES // 1000} kB: not a configuration file")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(file, line, "not UTF-8; save the file as UTF-8")]) from None
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise ConfigError([_syntax_problem(file, text, error)]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            [Problem(file, line, f"character U+{ord(text[error.position]):04X} is not allowed")]
        ) from None
    except RecursionError:
        raise ConfigError([Problem(file, None, f"nested more than {MAX_DEPTH} levels deep")]) from None
    finally:
        if loader is not None:
            loader.dispose()
    return _Reader(file, environ).tree(node)


def _syntax_problem(file: str, text: str, error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = None if mark is None else mark.line + 1
    message = str(error.problem or error.context)
    if "expected a single document" in str(error.context):
        message = "a second document begins here (---); use one document"
    elif "'\\t'" in message or (line is not None and text.split("\n")[line - 1].lstrip(" ").startswith("\t")):
        message = "a tab; indent with spaces"
    elif "undefined alias" in message:
        message = f"{message}; define it with & before it is used"
    elif "mapping values are not allowed" in message:
        message = "unexpected ':'; put the text in quotes, or check the indentation"
    return Problem(file, line, message)


class _Reader:
    """Turns YAML nodes into values."""

    def __init__(self, file: str, environ: Mapping[str, str]) -> None:
        self._file = file
        self._environ = environ
        self._lines: dict[Path_, int] = {}
        self._problems: list[Problem] = []
        self._count = 0

    def tree(self, node: yaml.Node | None) -> Tree:
        """The tree of a document; None is an empty file."""
        if node is not None and not isinstance(node, yaml.MappingNode):
            raise ConfigError(
                [Problem(self._file, node.start_mark.line + 1, "must begin with a key, such as streams:")]
            )
        values = {} if node is None else self._value(node, ())
        if self._problems:
            raise ConfigError(self._problems)
        return Tree(self._file, values, self._lines)

    def _fail(self, node: yaml.Node, message: str, path: Path_ = ()) -> None:
        name = ".".join(map(str, path))
        line = node.start_mark.line + 1
        self._problems.append(Problem(self._file, line, f"{name}: {message}" if name else message))

    def _value(self, node: yaml.Node, path: Path_) -> Any:
        self._count += 1
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH:
            limit = f"{MAX_VALUES} values" if self._count > MAX_VALUES else f"{MAX_DEPTH} levels"
            line = self._lines.get(path[:1], node.start_mark.line + 1)  # not that of the anchor
            raise ConfigError([Problem(self._file, line, f"more than {limit}, aliases expanded")])
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path)
        return self._scalar(node, path)

    def _sequence(self, node: yaml.SequenceNode, path: Path_) -> list[Any]:
        if node.tag != "tag:yaml.org,2002:seq":
            self._fail(node, f"the tag {node.tag} is not supported; remove it")
        values = []
        for number, entry in enumerate(node.value):
            self._lines[(*path, number)] = entry.start_mark.line + 1
            values.append(self._value(entry, (*path, number)))
        return values

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        if node.tag != "tag:yaml.org,2002:map":
            self._fail(node, f"the tag {node.tag} is not supported; remove it")
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                for entry in self._merged(value):
                    merged = {**self._value(entry, path), **merged}
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._fail(key, "a key must be a word")
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                self._fail(key, f"{key.value[:80]}: set before, in line {lines[key.value]}; a key may be set once")
                continue
            lines[key.value] = line
            self._lines[(*path, key.value)] = line
            values[key.value] = self._value(value, (*path, key.value))
        return {**merged, **values}

    def _merged(self, node: yaml.Node) -> Iterator[yaml.Node]:
        """The mappings that `<<` adds; the first wins."""
        for entry in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if isinstance(entry, yaml.MappingNode):
                yield entry
            else:
                self._fail(entry, "<< needs an alias of a mapping, such as *camera")

    def _scalar(self, node: yaml.Node, path: Path_) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        text = str(node.value)
        if kind == "str" or kind == "merge":
            return self._substituted(node, text, path)
        if kind not in _SCALARS:
            self._fail(node, f"the tag {node.tag} is not supported; remove it", path)
            return None
        try:
            return _SCALARS[kind](text)
        except ValueError:
            self._fail(node, f"{text[:80]!r} is not a valid {kind}", path)
            return None

    def _substituted(self, node: yaml.Node, text: str, path: Path_) -> str:
        def value(match: re.Match[str]) -> str:
            name = match["name"]
            if match[0] == "$$":
                return "$"
            if name is None:
                self._fail(node, "'${' without a name: write ${NAME} for a variable, $$ for a dollar sign", path)
                return ""
            if name not in self._environ:
                self._fail(node, f"the environment variable {name} is not set", path)
                return ""
            return self._environ[name]

        return _VARIABLE.sub(value, text)


def _integer(text: str) -> int:
    if len(text) > 40:
        raise ValueError(text)
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(text: str) -> float:
    special = {"inf": math.inf, "nan": math.nan}.get(text.lstrip("+-.").lower())
    return float(text) if special is None else math.copysign(special, -1 if text.startswith("-") else 1)


_SCALARS: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: text.lower() == "true",
    "int": _integer,
    "float": _float,
    "null": lambda _: None,
}
