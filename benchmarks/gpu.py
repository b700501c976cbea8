"""All that is claimed of a GPU, measured in one run of under 9 minutes.

    python benchmarks/gpu.py

Needs torch with CUDA, transformers and numpy, Python 3.11 or later. Every part stands alone: one that fails is written
down as failed, and the rest is measured. Limits: 1 frame, encode and decode, ≤ 2 × the floor of reading the weights
for every token, first interim text within 2 ms; 256 frames ≥ half of the binding floor.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from streamcap.bench import decode, encode, joining
from streamcap.bench.machine import Reader, describe_machine
from streamcap.bench.timing import in_turn, synchronise
from streamcap.captioner.batch import Limits
from streamcap.captioner.graphs import Replay, capture_failed
from streamcap.captioner.precision import find_device
from streamcap.captioner.prompt import Prompt
from streamcap.captioner.slots import SlotBatch

RESULTS = Path(__file__).parent / "results"
BUDGET_SECONDS = 500.0
FRAMES = [1, 4, 16, 64, 256]


def same_tokens(device: torch.device) -> dict[str, Any]:
    """fp32, replayed against transformers on the GPU: the arithmetic is the same, so the tokens must be."""
    model = decode.random_gpt2()
    gpt2 = decode.ours(model, "fp32", device)
    theirs = model.to(device)
    torch.manual_seed(1)
    prefixes = 0.1 * torch.randn(8, decode.PREFIX, gpt2.config.n_embd, device=device)
    found = decode.Decoder(gpt2, 8)
    rows = [found(prefixes) for _ in range(2)]
    wanted = decode.generate(theirs, prefixes)
    return {"frames": 8, "same_as_transformers": rows[0] == wanted, "same_again": rows[0] == rows[1]}


def decoding(device: torch.device) -> dict[str, Any]:
    result = decode.measure_decode(device, frames=FRAMES, precisions=["fp16"], rounds=7)
    print(decode.table(result))
    return result


def encoding(device: torch.device) -> dict[str, Any]:
    result = encode.measure_encode(device, frames=FRAMES, precisions=["fp16"], rounds=9)
    print(encode.table(result))
    return result


def one_frame(device: torch.device) -> dict[str, Any]:
    """Pixels in host memory to 20 tokens on the host, and to the first token."""
    tower = encode.tower(encode.random_clip(), "fp16", device)
    gpt2 = decode.ours(decode.random_gpt2(), "fp16", device)
    mapping = torch.nn.Sequential(torch.nn.Linear(512, 3840), torch.nn.Tanh(), torch.nn.Linear(3840, 7680))
    mapping = mapping.to(device, torch.float16)
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8).pin_memory()

    def look(given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (mapping(tower.encode(given)).view(1, decode.PREFIX, -1),)

    batch: SlotBatch[int] = SlotBatch(gpt2, Limits(decode.TOKENS, frozenset({decode.NEVER})), max_rows=1)
    with torch.inference_mode():
        replay = Replay(look, [pixels.to(device)], device)
    first, last = [], []
    for _ in range(60):
        synchronise(device)
        began = time.perf_counter()
        with torch.inference_mode():
            (prefix,) = replay(pixels)
        batch.add(0, Prompt(prefix[0]))
        batch.step()
        first.append(1000 * (time.perf_counter() - began))
        while batch.active:
            batch.step()
        last.append(1000 * (time.perf_counter() - began))
    reader = Reader(decode.weight_bytes(gpt2, "fp16"), device)
    floor = in_turn({"floor": lambda: [reader() for _ in range(decode.TOKENS)]}, device, rounds=9)["floor"]
    result = {
        "first_token_ms": round(statistics.median(first[10:]), 3),
        "last_token_ms": round(statistics.median(last[10:]), 3),
        "floor_ms": round(1000 * floor.median, 3),
        "to_floor": round(statistics.median(last[10:]) / (1000 * floor.median), 2),
    }
    print(result)
    return result


def arithmetic(device: torch.device) -> dict[str, Any]:
    """fp16 products a second on a large matrix: the other floor, for large batches."""
    side = 8192
    one = torch.randn(side, side, device=device, dtype=torch.float16)
    timing = in_turn({"product": lambda: one @ one}, device, rounds=9)["product"]
    teraflops = 2 * side**3 / timing.median / 1e12
    weights = decode.weight_bytes(decode.ours(decode.random_gpt2(), "fp16", device), "fp16") // 2
    floor = FRAMES[-1] * (decode.TOKENS + decode.PREFIX - 1) * 2 * weights / (teraflops * 1e12)
    result = {"teraflops_fp16": round(teraflops, 1), f"arithmetic_floor_{FRAMES[-1]}_frames_ms": round(1000 * floor, 3)}
    print(result)
    return result


def staggered(device: torch.device) -> dict[str, Any]:
    gpt2 = decode.ours(decode.random_gpt2(), "fp16", device)
    loads = []
    for load in (0.3, 0.5, 0.7):
        result = joining.measure_joining(gpt2, streams=16, load=load, seconds=8.0, max_rows=16)
        print(f"load {load:g}\n{joining.table(result)}")
        loads.append(result)
    return {"loads": loads}


PARTS: dict[str, Callable[[torch.device], dict[str, Any]]] = {
    "same tokens": same_tokens,
    "one frame": one_frame,
    "decode": decoding,
    "encode": encoding,
    "arithmetic": arithmetic,
    "joining": staggered,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    device = find_device(arguments.device)
    began = time.monotonic()
    content: dict[str, Any] = {"machine": describe_machine(device), "parts": {}}
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        if time.monotonic() - began > BUDGET_SECONDS:
            content["parts"][name] = {"left_out": "the time was up"}
            continue
        print(f"== {name}", flush=True)
        try:
            content["parts"][name] = part(device)
        except Exception as error:  # noqa: BLE001 - one part that fails must not cost the others their figures
            traceback.print_exc()
            content["parts"][name] = {"failed": f"{type(error).__name__}: {error}"}
        content["graphs"] = not capture_failed()
        content["seconds"] = round(time.monotonic() - began, 1)
        (arguments.out / "gpu.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
