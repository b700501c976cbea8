"""`streamcap models`: which captioners have a name, what of them is on this machine, and their conversion."""

from __future__ import annotations

import json
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
    """Names, sizes, licences where they are known, and what is on this machine."""
    from streamcap.captioner.registry import MODELS, cached

    rows = []
    for entry in MODELS.values():
        found = cached(entry)
        rows.append(
            {
                "name": entry.name,
                "what": entry.description,
                "licence": entry.license,
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

    table = Table("name", "what", "MB", "licence", "here", box=None, header_style="bold", pad_edge=False)
    for row in rows:
        here = "yes" if row["cached"] else "no"
        table.add_row(str(row["name"]), str(row["what"]), str(row["megabytes"]), str(row["licence"]), here)
    console = Console(highlight=False)
    console.print(table)
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
