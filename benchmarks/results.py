"""Where benchmarks write their figures, and the percentiles that they report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def write_result(path: Path, content: Any) -> None:
    """Write `content` as JSON; makes the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def percentiles(values: Iterable[float], ranks: Sequence[float] = (50, 95, 99), digits: int = 2) -> dict[str, float]:
    """`p50` and so on, by the nearest rank, and `max`; empty without values."""
    ordered = sorted(values)
    if not ordered:
        return {}
    found = {f"p{rank:g}": ordered[min(len(ordered) - 1, int(rank / 100 * len(ordered)))] for rank in ranks}
    return {name: round(float(value), digits) for name, value in (found | {"max": ordered[-1]}).items()}
