"""Time of one 720p frame from pixels to caption. Goal: `mini` ≤ 60 ms on one core.

    python -m benchmarks.end_to_end --one-core

Needs torch, transformers and numpy; with PyAV, preprocessing is that of the service.
"""

from __future__ import annotations

import argparse
import os

import torch

from benchmarks.results import RESULTS, write_result
from streamcap.bench.end_to_end import measure_end_to_end, table
from streamcap.bench.machine import describe_machine, usual_precisions
from streamcap.bench.preprocess import measure_preprocess
from streamcap.bench.preprocess import table as preprocess_table
from streamcap.captioner.kernels.precision import find_device


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precisions", nargs="+", default=None)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--one-core", action="store_true", help="one thread, bound to one core")
    parser.add_argument("--mini-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.one_core:
        torch.set_num_threads(1)
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    device = find_device(arguments.device)
    precisions = arguments.precisions or usual_precisions(device)
    result = measure_end_to_end(device, precisions=precisions, rounds=arguments.rounds, big=not arguments.mini_only)
    print(table(result))
    content = {**result, "machine": describe_machine(device)}
    if device.type == "cpu":
        content["preprocess"] = measure_preprocess(rounds=3 * arguments.rounds)["rows"]
        print(preprocess_table({"rows": content["preprocess"]}))
    name = f"whole-{device.type}{'-one-core' if arguments.one_core else ''}.json"
    write_result(RESULTS / name, content)


if __name__ == "__main__":
    main()
