"""Do frames that join a running batch come out sooner than those that wait for its end?

    python benchmarks/continuous_batching.py --streams 16 --load 0.7

Both at the same arrivals, so at equal throughput; p95 from frame to last token.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from streamcap.bench.continuous_batching import measure_continuous_batching, table
from streamcap.bench.decode import ours, random_gpt2
from streamcap.bench.machine import describe_machine
from streamcap.captioner.kernels.precision import find_device

RESULTS = Path(__file__).parent / "results"


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
    found = []
    for load in arguments.load:
        result = measure_continuous_batching(gpt2, streams=arguments.streams, load=load, seconds=arguments.seconds)
        print(f"{arguments.streams} streams, load {load:g} of {result['whole_batches_captions_per_second']} captions/s")
        print(table(result))
        found.append({**result, "precision": precision})
    RESULTS.mkdir(exist_ok=True)
    content = {"loads": found, "machine": describe_machine(device)}
    (RESULTS / f"joining-{device.type}.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
