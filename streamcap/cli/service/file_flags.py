"""The keys of the configuration file that options of `streamcap serve` and `node` are."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

if TYPE_CHECKING:
    from streamcap.config.schema import Flag

ONLY_ON_COMMAND_LINE = frozenset({"context", "sources", "config", "mask"})
Command = TypeVar("Command", bound=Callable[..., None])
_COMMANDS: dict[str, Callable[..., None]] = {}
"""By the section of the file that has the command's options. `streamcap.cli` imports all commands."""


def section_of_file(section: str) -> Callable[[Command], Command]:
    """Decorates a command: its options are keys of `section`."""

    def register(command: Command) -> Command:
        _COMMANDS[section] = command
        return command

    return register


@functools.cache
def file_flags() -> tuple[Flag, ...]:
    """Every option that the file may set, in the order of the help: those of `serve`, then those of `node` alone."""
    from streamcap.config.schema import Flag

    flags: dict[str, Flag] = {}
    for section in ("server", "cluster"):
        for name, (annotation, option) in _parameters(section).items():
            flags.setdefault(name, Flag(name, annotation, option.help or "", option.min, option.max, section))
    return tuple(flags.values())


def defaults(section: str) -> dict[str, Any]:
    """The defaults of all parameters of the command whose section it is."""
    parameters = inspect.signature(_COMMANDS[section]).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def environment() -> dict[str, str]:
    """Options of `serve` that an environment variable sets."""
    variables = {name: option.envvar for name, (_, option) in _parameters("server").items()}
    return {name: os.environ[str(one)] for name, one in variables.items() if one and os.environ.get(str(one))}


def _parameters(section: str) -> dict[str, tuple[Any, Any]]:
    """Type and Typer option of each parameter of a command that the file may set."""
    command = _COMMANDS[section]
    hints = get_type_hints(command, include_extras=True)
    names = [name for name in inspect.signature(command).parameters if name not in ONLY_ON_COMMAND_LINE]
    return {name: (_without_none(get_args(hints[name])[0]), get_args(hints[name])[1]) for name in names}


def _without_none(annotation: Any) -> Any:
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(annotation) and len(kinds) == 1 else annotation
