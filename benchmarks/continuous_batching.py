"""Latency with continuous batching, compared with whole batches.

    python -m benchmarks.continuous_batching --streams 16 --load 0.7

Both with the same arrivals, so at the same throughput; p95 from a frame's arrival to its last token.
"""

from __future__ import annotations

import argparse

from benchmarks.results import RESULTS, write_result
from streamcap.bench.continuous_batching import measure_continuous_batching, table
from streamcap.bench.decode import ours, random_gpt2
from streamcap.bench.machine import describe_machine
from streamcap.captioner.kernels.precision import find_device


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default=None)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--load", type=float, nargs="+", default=[0.5, 0.7])
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    device = find_device(arguments.device)
    precision = arguments.precision or ("int8" if device.type == "cpu" else "fp16")
    gpt2 = ours(random_gpt2(), precision, device)
    results = []
    for load in arguments.load:
        result = measure_continuous_batching(gpt2, streams=arguments.streams, load=load, seconds=arguments.seconds)
        print(f"{arguments.streams} streams, load {load:g} of {result['whole_batches_captions_per_second']} captions/s")
        print(table(result))
        results.append({**result, "precision": precision})
    content = {"loads": results, "machine": describe_machine(device)}
    write_result(RESULTS / f"continuous_batching-{device.type}.json", content)


if __name__ == "__main__":
    main()
