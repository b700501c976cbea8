"""Time to resize a 720p frame to the model's size. Goal: at most 2 ms.

python -m benchmarks.preprocess
"""

from __future__ import annotations

import torch

from benchmarks.results import RESULTS, write_result
from streamcap.bench.machine import describe_machine
from streamcap.bench.preprocess import measure_preprocess, table


def main() -> None:
    result = measure_preprocess(rounds=100)
    print(table(result))
    content = {**result, "machine": describe_machine(torch.device("cpu"))}
    write_result(RESULTS / "preprocess-cpu.json", content)


if __name__ == "__main__":
    main()
