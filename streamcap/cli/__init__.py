"""The command line. Heavy modules are imported inside the commands that need them."""

from __future__ import annotations

import errno
import gc
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from streamcap import __version__
from streamcap.cli import bench, cluster, config, dataset, evaluate, models, probe, train
from streamcap.cli.caption import command as caption
from streamcap.cli.one_line import one_line
from streamcap.cli.service import node, serve
from streamcap.config.problems import ConfigError
from streamcap.errors import InputError, StreamcapError
from streamcap.redact import redact

# Imports allocate without freeing: collections after every 700 objects take a fifth of the start.
GC_THRESHOLDS = (50_000, 20, 50)


_OUTPUT_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF})


class _Commands(TyperGroup):
    """Lists the commands without rich, whose import takes half of the time of `streamcap --help`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.rich_markup_mode = None
        super().format_help(ctx, formatter)


app = typer.Typer(
    name="streamcap",
    cls=_Commands,
    help="Streaming, real-time captions of what a video shows.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
app.command()(serve.serve)
app.command()(node.node)
app.add_typer(cluster.app, name="cluster")
app.command()(caption.caption)
app.command()(probe.probe)
app.add_typer(models.app, name="models")
app.add_typer(config.app, name="config")
app.command()(dataset.dataset)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(bench.bench)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"streamcap {__version__}")
        raise typer.Exit


@app.callback()
def _streamcap(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Streaming, real-time captions of what a video shows."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise InputError("missing command; see `streamcap --help`")


def main() -> None:
    """Run the command line. Exit status: 0; 2 for wrong use, with one line on stderr; 1 for other errors."""
    gc.set_threshold(*GC_THRESHOLDS)
    if not sys.warnoptions:
        # Python's warnings are for developers; users get our own messages.
        warnings.simplefilter("ignore")
    if sys.stdout is None:  # it was closed, as by `>&-`
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process
    try:
        status = app(standalone_mode=False) or 0
        sys.stdout.flush()
        sys.exit(status)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "streamcap"
        # Choices are checked by pydantic, which names the kind of its error.
        message = error.format_message().rstrip(".").replace(": Value error, ", ": ")
        # Of `streamcap cluster` alone, which has printed its help, the message is empty.
        _fail(f"{message or 'missing command'}; see `{command} --help`", 2)
    except InputError as error:
        _fail(error, 2)
    except StreamcapError as error:
        _fail(error, 1)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except RuntimeError as error:
        # Compared by name, because most commands never import torch.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _fail(f"out of memory; use a smaller model or another --device ({str(error).splitlines()[0]})", 1)
    except BrokenPipeError:
        # The reader of our output has closed the pipe, as `| head` does.
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        # Files have errors of their own: this is standard output.
        if error.errno not in _OUTPUT_FAULTS or error.filename is not None:
            raise
        sys.stdout = None  # else Python fails to flush it, and says so
        _fail(f"the output cannot be written: {error.strerror}", 1)


def _fail(message: object, status: int) -> None:
    # Of an error with several lines, each is a problem of its own.
    for line in str(message).splitlines() if isinstance(message, ConfigError) else [" ".join(str(message).split())]:
        typer.echo(f"streamcap: {one_line(redact(line))}", err=True)
    sys.exit(status)
