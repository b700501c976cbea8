"""Each cell of a comparison: one precision at one number of frames, ours beside the better of the other runtimes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from streamcap.bench.baselines import ONNXRUNTIME, OPENVINO

OTHERS = (ONNXRUNTIME, OPENVINO)


def cells(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """rows: `contender` (runtime and precision), `frames`, `rounds_ms`. A cell without another runtime has no `ratio`.

    ratio: the median over the rounds of ours ÷ the other's time in the same round, for the other where it is highest.
    """
    rounds = {(*row["contender"].rsplit(" ", 1), row["frames"]): row["rounds_ms"] for row in rows}
    found = []
    for (runtime, precision, frames), ours in rounds.items():
        if runtime != "streamcap":
            continue
        others = {name: rounds[key] for name in OTHERS if (key := (name, precision, frames)) in rounds}
        cell: dict[str, Any] = {"precision": precision, "frames": frames, "ours_ms": median(ours)}
        if others:
            ratios = {name: median(a / b for a, b in zip(ours, theirs, strict=True)) for name, theirs in others.items()}
            best = max(ratios, key=lambda name: ratios[name])
            ratio = round(ratios[best], 3)
            cell |= {"best_other": best, "other_ms": median(others[best]), "ratio": ratio, "met": ratio < 1}
        found.append(cell)
    return sorted(found, key=lambda cell: (cell["precision"], cell["frames"]))


def cells_table(found: Iterable[Mapping[str, Any]]) -> str:
    """The cells as text, one line each."""
    lines = [f"{'cell':<16}{'ours ms':>9}  beside the better of {' and '.join(OTHERS)}"]
    for cell in found:
        name = f"{cell['precision']} × {cell['frames']}"
        beside = "not measured"
        if "ratio" in cell:
            verdict = "met" if cell["met"] else "MISSED"
            beside = f"{cell['ratio']:.2f} × {cell['best_other']} ({cell['other_ms']:.1f} ms): {verdict}"
        lines.append(f"{name:<16}{cell['ours_ms']:>9.1f}  {beside}")
    return "\n".join(lines)
