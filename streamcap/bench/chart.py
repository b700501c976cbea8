"""A chart of a decode benchmark: latency by batch size, with the floor as a dashed line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from streamcap.atomic import atomic_write
from streamcap.errors import InputError
from streamcap.extras import install_command


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG of `result["decode"]`. Raises InputError if matplotlib is missing or `path` cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(f"a chart needs matplotlib; {install_command('bench')}") from None
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    lines = _lines(result["decode"]["rows"])
    for name, points in lines.items():
        floor = name.startswith("floor")
        style: dict[str, Any] = {"linestyle": "--", "color": "grey"} if floor else {"marker": "o"}
        axes.plot([frames for frames, _ in points], [taken for _, taken in points], label=name, **style)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({frames for points in lines.values() for frames, _ in points})
    axes.set_xticks(ticks, labels=[str(frames) for frames in ticks])
    axes.set_xlabel("frames at once")
    axes.set_ylabel("milliseconds for 20 tokens each")
    axes.set_title(f"GPT-2 124M on {result['machine']['processor']}", fontsize=9)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))  # beside the lines, not over them
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    atomic_write(path, content.getvalue())


def _lines(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    lines: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        lines.setdefault(row["contender"], []).append((row["frames"], row["median_ms"]))
    return lines
