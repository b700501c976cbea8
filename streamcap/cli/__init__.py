"""The command line: commands, progress, messages. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from streamcap import __version__
from streamcap.cli.bench import bench
from streamcap.cli.caption import caption
from streamcap.cli.dataset import dataset
from streamcap.cli.evaluate import evaluate
from streamcap.cli.models import app as models
from streamcap.cli.serve import serve
from streamcap.cli.train import train
from streamcap.errors import InputError, StreamcapError
from streamcap.redact import redact

app = typer.Typer(
    name="streamcap",
    help="Streaming, real-time captions of what a video shows.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.command()(caption)
app.add_typer(models, name="models")
app.command()(dataset)
app.command()(train)
app.command()(evaluate)
app.command()(bench)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"streamcap {__version__}")
        raise typer.Exit


@app.callback()
def _streamcap(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    """Streaming, real-time captions of what a video shows."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise InputError("a command is needed; see `streamcap --help`")


def main() -> None:
    """Run the command line: exit status 0; 2 for wrong use, with one line on stderr; 1 for all else."""
    if not sys.warnoptions:
        # Python's warnings are for developers: what a user has to know is said in our own words.
        warnings.simplefilter("ignore")
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "streamcap"
        _fail(f"{error.format_message().rstrip('.')}; see `{command} --help`", 2)
    except InputError as error:
        _fail(error, 2)
    except StreamcapError as error:
        _fail(error, 1)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except RuntimeError as error:
        # torch's own, by its name: most commands never import torch.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _fail(f"out of memory; take a smaller model or another --device ({str(error).splitlines()[0]})", 1)
    except BrokenPipeError:
        # Whoever read our output has gone, as `| head` does: nothing is wrong.
        sys.stderr.close()
        sys.exit(0)


def _fail(message: object, status: int) -> None:
    typer.echo(f"streamcap: {redact(' '.join(str(message).split()))}", err=True)
    sys.exit(status)
