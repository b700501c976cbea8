"""The command line: commands, progress, messages. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from streamcap import __version__
from streamcap.cli.serve import serve
from streamcap.errors import InputError, StreamcapError
from streamcap.redact import redact

app = typer.Typer(
    name="streamcap",
    help="Streaming, real-time captions of what a video shows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"streamcap {__version__}")
        raise typer.Exit


@app.callback()
def _streamcap(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    """Streaming, real-time captions of what a video shows."""


def main() -> None:
    """Run the command line: exit status 0; 2 for wrong use, with one line on stderr; 1 for all else."""
    try:
        app()
    except InputError as error:
        _fail(error, 2)
    except StreamcapError as error:
        _fail(error, 1)
    except BrokenPipeError:
        # Whoever read our output has gone, as `| head` does: nothing is wrong.
        sys.stderr.close()
        sys.exit(0)


def _fail(error: Exception, status: int) -> None:
    typer.echo(f"streamcap: {redact(' '.join(str(error).split()))}", err=True)
    sys.exit(status)
