"""`streamcap config`: checks a configuration file; prints the JSON schema of such files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="config", help="Check configuration files; print their JSON schema.", pretty_exceptions_enable=False
)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration file of `streamcap serve --config`.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a configuration file; starts nothing. Exit status 2 if it has problems, one line for each."""
    from streamcap.cli.service.serve_options import load_checked
    from streamcap.config.problems import ConfigError

    try:
        config = load_checked(file)
    except ConfigError as error:
        if not as_json:
            raise
        problems = [
            {"file": problem.file, "line": problem.line, "message": problem.shown()} for problem in error.problems
        ]
        typer.echo(json.dumps({"valid": False, "problems": problems}, indent=2))
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(
            json.dumps({"valid": True, "models": list(config.models), "streams": list(config.streams)}, indent=2)
        )
    else:
        typer.echo(f"{file}: valid; streams: {', '.join(config.streams) or 'none'}")


@app.command()
def schema() -> None:
    """Print the JSON schema of configuration files, for editors."""
    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


def json_schema() -> dict[str, object]:
    """The schema, as `streamcap/config/schema.json` has it."""
    from streamcap.cli.service.file_flags import file_flags
    from streamcap.config.schema import file_schema

    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **file_schema(file_flags()).model_json_schema()}
