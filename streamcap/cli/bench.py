"""`streamcap bench`: speed of this machine, compared with transformers and with the hardware limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from streamcap.cli.extra import require_extra
from streamcap.errors import InputError


def bench(
    frames: Annotated[
        list[int] | None, typer.Option("--frames", "-n", help="Batch size in frames; repeatable.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[list[str] | None, typer.Option(help="fp32, int8, fp16 or bf16; repeatable.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Number of measurements.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Directory for bench.json and bench.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Measure decoding, encoding, preprocessing and the pipeline, with `mini` and random weights: no downloads."""
    counts = sorted(set(frames or [1, 4]))
    if counts[0] < 1:
        raise InputError(f"--frames {counts[0]}: at least 1")
    from streamcap.atomic import atomic_write, make_directory
    from streamcap.bench import chart, decode, encode, end_to_end, preprocess
    from streamcap.bench.machine import describe_machine, usual_precisions
    from streamcap.captioner.kernels.precision import find_device, find_precision

    where = find_device(device)
    formats = [find_precision(name, where) for name in precision or usual_precisions(where)]
    if out is not None:
        require_extra("bench", "matplotlib")
        make_directory(out)
    result: dict[str, Any] = {"machine": describe_machine(where)}
    result["decode"] = decode.measure_decode(where, frames=counts, precisions=formats, rounds=rounds)
    result["encode"] = encode.measure_encode(where, frames=counts, precisions=formats, rounds=rounds)
    result["preprocess"] = preprocess.measure_preprocess(rounds=max(rounds, 20))
    result["whole"] = end_to_end.measure_end_to_end(where, precisions=formats, rounds=max(rounds, 9))
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        machine = result["machine"]
        typer.echo(f"{machine['processor']}, {machine['cores']} cores, device {machine['device']}")
        typer.echo("CPU kernels: " + ", ".join(f"{name} {source}" for name, source in machine["kernels"].items()))
        tables = {
            "decode": decode.table,
            "encode": encode.table,
            "preprocess": preprocess.table,
            "whole": end_to_end.table,
        }
        for part, table in tables.items():
            typer.echo(f"\n{result[part]['question']}\n{table(result[part])}")
    if out is not None:
        atomic_write(out / "bench.json", json.dumps(result, indent=2) + "\n")
        chart.draw(result, out / "bench.png")
