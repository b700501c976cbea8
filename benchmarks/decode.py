"""Time to decode a caption, compared with transformers and with the time to read the weights.

    python -m benchmarks.decode --frames 1 4 --precisions fp32 int8

Needs torch, transformers and numpy; onnxruntime (with onnx and onnxscript) and OpenVINO are measured if installed, and
their fp32 tokens must equal transformers'. Goals: fp32 ≤ 0.80 × transformers, with the same tokens; int8 ≤ 0.35 × and
≤ 1.5 × its floor at 1 frame; int8 at 4 frames ≤ 1.3 × 1 frame.
"""

from __future__ import annotations

import argparse
import time

import torch

from benchmarks.results import RESULTS, write_result
from streamcap.bench.cells import cells, cells_table
from streamcap.bench.decode import measure_decode, table
from streamcap.bench.machine import describe_machine, usual_precisions
from streamcap.captioner.kernels.precision import find_device


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--precisions", nargs="+", default=None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="0: torch's own choice")
    parser.add_argument("--leave-out", nargs="+", default=[], help='beginnings of contenders, such as "loop"')
    parser.add_argument(
        "--cpu-time", action="store_true", help="with --threads 1, on a machine that others use as well"
    )
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = find_device(arguments.device)
    precisions = arguments.precisions or usual_precisions(device)
    result = measure_decode(
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
    rows = {(row["contender"], row["frames"]): row for row in result["rows"]}
    one, four = rows.get(("streamcap int8", 1)), rows.get(("streamcap int8", 4))
    if one and four:
        result["int8_4_frames_to_1"] = round(four["median_ms"] / one["median_ms"], 3)
        print(f"int8, 4 frames: {result['int8_4_frames_to_1']:.2f} × 1 frame (limit 1.3)")
    name = f"decode-{device.type}{'' if not arguments.threads else f'-{arguments.threads}-threads'}.json"
    write_result(RESULTS / name, {**result, "machine": describe_machine(device)})
    different = result["baselines"]["other_tokens_in_fp32"]
    assert not different, f"not the tokens of transformers: {'; '.join(different)}"


if __name__ == "__main__":
    main()
