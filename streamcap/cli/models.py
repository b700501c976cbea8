"""`streamcap models`: which captioners have a name, what of them is on this machine, and their conversion."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="models",
    help="The captioners that have a name, and conversion of checkpoints.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def models(context: typer.Context, as_json: Json = False) -> None:
    """The captioners that have a name, and conversion of checkpoints. Without a command: the list."""
    if context.invoked_subcommand is None:
        list_models(as_json)


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """What each is good for, its size, quality and license, what is on this machine, and the command."""
    from streamcap.captioner.registry import MODELS, cached

    rows = []
    for entry in MODELS.values():
        found = cached(entry)
        rows.append(
            {
                "name": entry.name,
                "what": entry.description,
                "licence": entry.license,
                "good_for": entry.good_for,
                "quality": entry.quality,
                "command": f"streamcap caption photo.jpg --model {entry.name}",
                "megabytes": round(_bytes(found) / 1e6) if found is not None else entry.megabytes,
                "source": entry.source,
                "cached": str(found) if found is not None else None,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    # A pipe has no width to keep to.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("name", no_wrap=True)
    for header in ("good for", "MB", "quality", "licence", "here"):
        table.add_column(header)
    for row in rows:
        fields = (row["name"], row["good_for"], row["megabytes"], row["quality"], row["licence"])
        table.add_row(*map(str, fields), "yes" if row["cached"] else "no")
    console.print(table)
    console.print("Use one: streamcap serve URL --model NAME, or streamcap caption photo.jpg --model NAME.")
    console.print("Also: any hub owner/name, a checkpoint file, or a directory.", style="dim")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="A name, file or directory that `--model` takes.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The new directory.")],
    as_json: Json = False,
) -> None:
    """Write a checkpoint of any family as safetensors with its configuration."""
    from streamcap.captioner.checkpoints.convert import convert_checkpoint
    from streamcap.captioner.registry import find_checkpoint

    checkpoint = convert_checkpoint(find_checkpoint(source), destination)
    config = checkpoint.gpt2.config
    size = _bytes(destination)
    if as_json:
        told = {"family": checkpoint.family, "directory": str(destination), "bytes": size, "gpt2": config.to_json()}
        typer.echo(json.dumps(told, indent=2))
        return
    typer.echo(
        f"{destination}: {checkpoint.family}, GPT-2 of {config.n_layer} layers of {config.n_embd}, {size / 1e6:.1f} MB"
    )


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
