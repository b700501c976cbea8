"""Time to resize a 720p frame to the model's size. Goal: at most 2 ms.

python -m benchmarks.preprocess
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from streamcap.bench.machine import describe_machine
from streamcap.bench.preprocess import measure_preprocess, table

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    result = measure_preprocess(rounds=100)
    print(table(result))
    RESULTS.mkdir(exist_ok=True)
    content = {**result, "machine": describe_machine(torch.device("cpu"))}
    (RESULTS / "preprocess-cpu.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
