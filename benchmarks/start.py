"""Time from `streamcap serve` to the first caption of `scenes:`, and of `streamcap --help`.

    python -m benchmarks.start [--rounds 5] [--json benchmarks/results/start.json]

Wall clock and CPU time (user and system) of each process; the best of the rounds, because other programs only add
time. The disk is warm: the first round is not counted. Goals: first caption ≤ 3 s, help ≤ 0.3 s.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.results import RESULTS, write_result

# Modules whose import is measured alone, in a process of its own: what the start cannot be faster than.
IMPORTS = ("typer", "numpy", "av", "fastapi", "aiortc", "torch", "streamcap.service.app")
TIMEOUT_S = 120.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=RESULTS / "start.json")
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "serve, to the first caption": first_caption,
        "streamcap --help": lambda: _run("-m", "streamcap", "--help"),
        "python": lambda: _run("-c", ""),
        **{f"import {name}": lambda name=name: _run("-c", f"import {name}") for name in IMPORTS},  # type: ignore[misc]
    }
    best: dict[str, dict[str, float]] = {}
    for number in range(arguments.rounds + 1):
        for name, run in parts.items():
            seconds = _measured(run)
            if number:
                known = best.setdefault(name, seconds)
                best[name] = {kind: min(known[kind], value) for kind, value in seconds.items()}
    table = Table("seconds", "wall", "CPU")
    for name, seconds in best.items():
        table.add_row(name, f"{seconds['wall']:.2f}", f"{seconds['cpu']:.2f}")
    Console().print(table)
    # Imported late: it imports torch, and this process should leave the machine to those it measures.
    import torch

    from streamcap.bench.machine import describe_machine

    result = {"rounds": arguments.rounds, "seconds": best, "machine": describe_machine(torch.device("cpu"))}
    write_result(arguments.json, result)


def first_caption() -> None:
    """Start the service, and kill it when the first caption is printed."""
    command = [sys.executable, "-m", "streamcap", "serve", "--port", "0", "scenes:"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=_environ()
    ) as process:
        assert process.stdout is not None
        # Lines of a caption begin with its time; lines of a status with spaces.
        found = any(line[:1].isdigit() for line in process.stdout)
        process.kill()
    if not found:
        raise SystemExit("the service ended before its first caption")


def _run(*arguments: str) -> None:
    command = [sys.executable, *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=TIMEOUT_S, env=_environ())


def _environ() -> dict[str, str]:
    """Installed packages have their bytecode; compiling a checkout's sources each time would add a second."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _measured(run: Callable[[], None]) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    run()
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": round(wall, 3), "cpu": round(cpu, 3)}


if __name__ == "__main__":
    main()
