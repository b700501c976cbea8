"""Time to encode an image with CLIP ViT-B/32, compared with transformers.

    python -m benchmarks.encode --frames 1 4

Needs torch, transformers and numpy; onnxruntime (with onnx and onnxscript) and OpenVINO are measured if installed.
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.results import RESULTS, write_result
from streamcap.bench.cells import cells, cells_table
from streamcap.bench.encode import measure_encode, table
from streamcap.bench.machine import describe_machine, usual_precisions
from streamcap.captioner.kernels.precision import find_device


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="of every contender; as torch chooses unless given")
    parser.add_argument("--leave-out", nargs="+", default=[], help='such as "onnxruntime" or "OpenVINO int8"')
    parser.add_argument(
        "--cpu-time", action="store_true", help="with --threads 1, on a machine that others use as well"
    )
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = find_device(arguments.device)
    precisions = usual_precisions(device)
    result = measure_encode(
        device,
        frames=arguments.frames,
        precisions=precisions,
        rounds=arguments.rounds,
        leave_out=arguments.leave_out,
        clock=time.process_time if arguments.cpu_time else time.perf_counter,
    )
    print(table(result))
    result["cells"] = cells(result["rows"])
    print(cells_table(result["cells"]))
    content = {**result, "machine": describe_machine(device)}
    name = f"encode-{device.type}{'' if not arguments.threads else f'-{arguments.threads}-threads'}.json"
    write_result(RESULTS / name, content)


if __name__ == "__main__":
    main()
