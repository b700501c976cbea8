"""`serve_flags`: the options of `streamcap serve` as keys of the configuration file."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import typer

if TYPE_CHECKING:
    from streamcap.config.schema import Flag

ONLY_ON_COMMAND_LINE = frozenset({"context", "sources", "config"})


def serve_flags() -> list[Flag]:
    """Every option that the file may set, in the order of the help."""
    from streamcap.cli.serve import serve
    from streamcap.config.schema import Flag

    hints = get_type_hints(serve, include_extras=True)
    flags = []
    for name in inspect.signature(serve).parameters:
        if name in ONLY_ON_COMMAND_LINE:
            continue
        annotation, option = get_args(hints[name])[:2]
        flags.append(Flag(name, _without_none(annotation), option.help or "", option.min, option.max))
    return flags


def given(context: typer.Context) -> set[str]:
    """The options that the command line or an environment variable has set: they win over the file."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {
        name for name, source in sources.items() if source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")
    }


def _without_none(annotation: Any) -> Any:
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
    return kinds[0] if type(None) in get_args(annotation) and len(kinds) == 1 else annotation
