"""`streamcap models`: lists named captioners and converts checkpoints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="models",
    help="List named captioners; convert checkpoints.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def models(context: typer.Context, as_json: Json = False) -> None:
    """List named captioners, or convert checkpoints. Without a command: the list."""
    if context.invoked_subcommand is None:
        list_models(as_json)


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the named captioners: use, size, quality, speed, license, and whether they are downloaded."""
    from streamcap.captioner.kernels.loading import describe_kernels
    from streamcap.captioner.registry import MODELS, cached

    rows = []
    for entry in MODELS.values():
        path = cached(entry)
        rows.append(
            {
                "name": entry.name,
                "what": entry.description,
                "license": entry.license,
                "good_for": entry.good_for,
                "quality": entry.quality,
                "ms_per_frame": entry.speed,
                "command": f"streamcap caption photo.jpg --model {entry.name}",
                "megabytes": round(_bytes(path) / 1e6) if path is not None else entry.megabytes,
                "source": entry.source,
                "cached": str(path) if path is not None else None,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    # A pipe has no width limit.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("name", no_wrap=True)
    for header in ("good for", "MB", "quality", "ms a frame", "license", "downloaded"):
        table.add_column(header)
    for row in rows:
        fields = (row["name"], row["good_for"], row["megabytes"], row["quality"], row["ms_per_frame"], row["license"])
        table.add_row(*map(str, fields), "yes" if row["cached"] else "no")
    console.print(table)
    console.print("Use one: streamcap serve URL --model NAME, or streamcap caption photo.jpg --model NAME.")
    console.print(
        "Also: a hub owner/name (BLIP, GIT, SmolVLM, Qwen-VL, LLaVA, …), a file, or a directory.", style="dim"
    )
    console.print(
        "Or openai:MODEL with --model-url URL: any server that speaks OpenAI's chat completions (Ollama, vLLM, …).",
        style="dim",
    )
    console.print("ms a frame: 720p, from the frame to its caption, one CPU core.", style="dim")
    kernels = ", ".join(f"{name} {describe_kernels(name)}" for name in ("fp32", "int8"))
    console.print(f"CPU kernels: {kernels}.", style="dim")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Model name, file or directory, as for `--model`.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The new directory.")],
    as_json: Json = False,
) -> None:
    """Convert a checkpoint of any family to safetensors and its configuration."""
    from streamcap.captioner.checkpoints.convert import convert_checkpoint
    from streamcap.captioner.registry import find_checkpoint

    checkpoint = convert_checkpoint(find_checkpoint(source), destination)
    config = checkpoint.gpt2.config
    size = _bytes(destination)
    if as_json:
        summary = {"family": checkpoint.family, "directory": str(destination), "bytes": size, "gpt2": config.to_json()}
        typer.echo(json.dumps(summary, indent=2))
        return
    typer.echo(
        f"{destination}: {checkpoint.family}, GPT-2 of {config.n_layer} layers of {config.n_embd}, {size / 1e6:.1f} MB"
    )


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
