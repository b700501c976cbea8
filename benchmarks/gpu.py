"""All GPU figures in one run of under 8 minutes, the most important first; ends with a table of the goals.

    python benchmarks/gpu.py

Needs torch with CUDA, transformers and numpy, Python 3.11 or later. Parts are independent: a failed one is reported and
the rest is measured; the JSON is written after each part. Goals: 1 frame, encode and decode: ≤ 2 × the floor (reading
the weights for every token), first token within 2 ms; 256 frames: throughput ≥ half of the binding floor.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from streamcap.bench import continuous_batching, decode, encode
from streamcap.bench.machine import BandwidthProbe, describe_machine
from streamcap.bench.timing import interleaved, synchronize
from streamcap.captioner.decoding.batch import Request, StopCriteria
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.decoding.cuda_graphs import GraphedCallable, capture_failed
from streamcap.captioner.decoding.draft_budget import DraftBudget
from streamcap.captioner.decoding.drafts import Acceptances, DraftStatistics, TokenDraft
from streamcap.captioner.decoding.verifier import Verifier
from streamcap.captioner.kernels.precision import find_device
from streamcap.captioner.models.prompt import Prompt

RESULTS = Path(__file__).parent / "results"
BUDGET_SECONDS = 360.0
"""No part begins later than this. The longest takes less than two minutes."""
FRAMES = [1, 4, 16, 64, 256]
OURS = "streamcap fp16"
ROUNDS = 9
LARGE = 2**28
"""int64 numbers in the bandwidth buffer. The matrices of `arithmetic` have a side of half its square root."""


def same_tokens(device: torch.device) -> dict[str, Any]:
    """fp32 with CUDA graphs, compared with transformers on the GPU: the tokens must be the same."""
    model = decode.random_gpt2()
    gpt2 = decode.ours(model, "fp32", device)
    theirs = model.to(device)
    torch.manual_seed(1)
    prefixes = 0.1 * torch.randn(8, decode.PREFIX, gpt2.config.n_embd, device=device)
    decoder = decode.Decoder(gpt2, 8)
    rows = [decoder(prefixes) for _ in range(2)]
    expected = decode.generate(theirs, prefixes)
    return {"frames": 8, "same_as_transformers": rows[0] == expected, "same_again": rows[0] == rows[1]}


def decoding(device: torch.device) -> dict[str, Any]:
    result = decode.measure_decode(device, frames=FRAMES, precisions=["fp16"], rounds=ROUNDS)
    print(decode.table(result))
    return result


def encoding(device: torch.device) -> dict[str, Any]:
    result = encode.measure_encode(device, frames=FRAMES, precisions=["fp16"], rounds=ROUNDS)
    print(encode.table(result))
    return result


def one_frame(device: torch.device) -> dict[str, Any]:
    """Pixels in host memory to 20 tokens on the host, and to the first token."""
    tower = encode.tower(encode.random_clip(), "fp16", device)
    gpt2 = decode.ours(decode.random_gpt2(), "fp16", device)
    mapping = encode.mapping(tower.width, gpt2, decode.PREFIX)
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    if device.type == "cuda":
        pixels = pixels.pin_memory()

    def encode_prefix(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (mapping(tower.encode(batch)).view(1, decode.PREFIX, -1),)

    batch: CudaGraphBatch[int] = CudaGraphBatch(
        gpt2, StopCriteria(decode.TOKENS, frozenset({decode.NEVER})), max_rows=1
    )
    with torch.inference_mode():
        replay = GraphedCallable(encode_prefix, [pixels.to(device)], device)
    first, last = [], []
    for _ in range(10 + 5 * ROUNDS):
        synchronize(device)
        began = time.perf_counter()
        with torch.inference_mode():
            (prefix,) = replay(pixels)
        batch.add(0, Prompt(prefix[0]))
        batch.step()
        first.append(1000 * (time.perf_counter() - began))
        while batch.active:
            batch.step()
        last.append(1000 * (time.perf_counter() - began))
    probe = BandwidthProbe(decode.weight_bytes(gpt2, "fp16"), device)
    floor = interleaved({"floor": lambda: [probe() for _ in range(decode.TOKENS)]}, device, rounds=ROUNDS)["floor"]
    result = {
        "first_token_ms": round(statistics.median(first[10:]), 3),
        "last_token_ms": round(statistics.median(last[10:]), 3),
        "floor_ms": round(1000 * floor.median, 3),
        "to_floor": round(statistics.median(last[10:]) / (1000 * floor.median), 2),
    }
    print(result)
    return result


def drafts(device: torch.device) -> dict[str, Any]:
    """Prefix to 20 tokens on the host, one frame: without a draft, and with a right, a half right and an absurd one."""
    gpt2 = decode.ours(decode.random_gpt2(), "fp16", device)
    stop_criteria = StopCriteria(decode.TOKENS, frozenset({decode.NEVER}))
    verifier = Verifier(DraftBudget(), DraftStatistics(), gpt2.config.vocab_size)
    plain: CudaGraphBatch[int] = CudaGraphBatch(gpt2, stop_criteria, max_rows=1)
    drafted: CudaGraphBatch[int] = CudaGraphBatch(gpt2, stop_criteria, max_rows=1, verifier=verifier)
    torch.manual_seed(1)
    prompt = Prompt((0.1 * torch.randn(decode.PREFIX, gpt2.config.n_embd)).to(device, gpt2.dtype))

    def caption(draft: list[int] | None) -> Request[int]:
        batch = plain if draft is None else drafted
        batch.add(0, prompt, None if draft is None else TokenDraft(draft, Acceptances()))
        finished: list[Request[int]] = []
        while batch.active:
            finished += batch.step()
        return finished[0]

    tokens = caption(None).tokens
    wrong = [(token + 1) % gpt2.config.vocab_size for token in tokens]
    guesses = {"none": None, "right": tokens, "half right": tokens[:10] + wrong[10:], "absurd": wrong}
    ways = {name: partial(caption, guess) for name, guess in guesses.items()}
    for caption_with_draft in ways.values():
        for _ in range(5):  # records the graphs, and measures their passes
            caption_with_draft()
    timings = interleaved(ways, device, rounds=ROUNDS)
    result: dict[str, Any] = {}
    for name, way in ways.items():
        row = way()
        median = round(1000 * timings[name].median, 3)
        result[name] = {"median_ms": median, "passes": row.passes, "same_tokens": row.tokens == tokens}
        print(f"draft {name}: {median:.2f} ms, {row.passes} passes, same tokens: {row.tokens == tokens}")
    return result


def arithmetic(device: torch.device) -> dict[str, Any]:
    """fp16 throughput of a large matmul: the floor of large batches."""
    side = math.isqrt(LARGE) // 2
    one = torch.randn(side, side, device=device, dtype=torch.float16)
    timing = interleaved({"matmul": lambda: one @ one}, device, rounds=ROUNDS)["matmul"]
    teraflops = 2 * side**3 / timing.median / 1e12
    gpt2 = decode.ours(decode.random_gpt2(), "fp16", device)
    head = gpt2.config.n_embd * gpt2.config.vocab_size
    layers = decode.weight_bytes(gpt2, "fp16") // 2 - head
    multiplications = layers * (decode.PREFIX + decode.TOKENS - 1) + head * decode.TOKENS
    floors = {str(frames): round(2000 * frames * multiplications / (teraflops * 1e12), 3) for frames in FRAMES}
    result = {"teraflops_fp16": round(teraflops, 1), "floor_ms": floors}
    print(result)
    return result


def bandwidth(device: torch.device) -> dict[str, Any]:
    """GB/s of this GPU's memory, for reading and for a copy (read and write both counted).

    And the milliseconds to read weights and cache for all tokens at the best of these rates.
    """
    one = torch.ones(LARGE, device=device, dtype=torch.int64)
    other = torch.empty_like(one)
    ways: dict[str, Callable[[], object]] = {
        "sum of int64": one.sum,
        "sum of float32": one.view(torch.float32).sum,
        "copy": lambda: other.copy_(one),
    }
    timings = interleaved(ways, device, rounds=ROUNDS)
    moved = {name: 8 * LARGE * (2 if name == "copy" else 1) / timing.median / 1e9 for name, timing in timings.items()}
    gpt2 = decode.ours(decode.random_gpt2(), "fp16", device)
    config = gpt2.config
    weights = decode.TOKENS * decode.weight_bytes(gpt2, "fp16")
    positions_read = sum(range(decode.PREFIX + 1, decode.PREFIX + decode.TOKENS))
    cache = positions_read * 2 * config.n_layer * config.n_embd * 2
    best = max(moved.values())
    floors = {str(frames): round((weights + frames * cache) / best / 1e6, 3) for frames in FRAMES}
    result = {"gb_s": {name: round(each, 1) for name, each in moved.items()}, "floor_ms": floors}
    print(result)
    return result


def binding_floor(parts: dict[str, Any]) -> dict[str, Any]:
    """Each batch size compared with its binding floor: reading weights and cache, or arithmetic."""
    try:
        rows = {row["frames"]: row["median_ms"] for row in parts["decode"]["rows"] if row["contender"] == OURS}
        floors = {name: parts[name]["floor_ms"] for name in ("bandwidth", "arithmetic")}
    except KeyError as missing:
        return {"failed": f"{missing.args[0]} was not measured"}
    result = {}
    for frames, median in rows.items():
        binding = max(floors, key=lambda name: floors[name][str(frames)])
        floor = floors[binding][str(frames)]
        result[str(frames)] = {
            "binding": binding,
            "floor_ms": floor,
            "median_ms": median,
            "share_of_floor": round(floor / median, 3),
            "captions_per_second": round(1000 * frames / median, 1),
        }
        print(f"{frames} frames: {median:.2f} ms, {result[str(frames)]['share_of_floor']:.2f} of the {binding} floor")
    return result


def staggered(device: torch.device) -> dict[str, Any]:
    gpt2 = decode.ours(decode.random_gpt2(), "fp16", device)
    loads = []
    for load in (0.3, 0.5, 0.7):
        result = continuous_batching.measure_continuous_batching(gpt2, streams=16, load=load, seconds=8.0, max_rows=16)
        print(f"load {load:g}\n{continuous_batching.table(result)}")
        loads.append(result)
    return {"loads": loads}


PARTS: dict[str, Callable[[torch.device], dict[str, Any]]] = {
    "same tokens": same_tokens,
    "bandwidth": bandwidth,
    "one frame": one_frame,
    "drafts": drafts,
    "decode": decoding,
    "encode": encoding,
    "arithmetic": arithmetic,
    "joining": staggered,
}


def summary(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal with what was measured; `measured` and `met` are None where a part failed or was left out."""
    parts, floors = content["parts"], content.get("binding_floor", {})
    drafted = parts.get("drafts", {})
    right = drafted.get("right", {})
    same_with_drafts = all(each["same_tokens"] for each in drafted.values()) if right else None
    one, most = parts.get("one frame", {}), floors.get(str(FRAMES[-1]), {})
    rows: list[tuple[str, Any, Callable[[Any], bool]]] = [
        ("tokens as transformers", parts.get("same tokens", {}).get("same_as_transformers"), bool),
        ("one frame, ms to the last token: at most 4.5", one.get("last_token_ms"), lambda ms: ms <= 4.5),
        ("one frame with a right draft, ms: at most 1.5", right.get("median_ms"), lambda ms: ms <= 1.5),
        ("tokens with drafts as without", same_with_drafts, bool),
        ("one frame, ms to the first token: at most 2", one.get("first_token_ms"), lambda ms: ms <= 2.0),
        ("one frame, × its floor: at most 2", one.get("to_floor"), lambda ratio: ratio <= 2.0),
        (f"{FRAMES[-1]} frames, of the floor: at least 0.5", most.get("share_of_floor"), lambda share: share >= 0.5),
        ("CUDA graphs recorded", content.get("graphs"), bool),
    ]
    return [
        {"goal": goal, "measured": value, "met": None if value is None else met(value)} for goal, value, met in rows
    ]


def show(rows: list[dict[str, Any]]) -> None:
    print("\n| goal | measured | met |\n| --- | --- | --- |")
    for row in rows:
        measured = "not measured" if row["measured"] is None else row["measured"]
        print(f"| {row['goal']} | {measured} | {'-' if row['met'] is None else 'yes' if row['met'] else '**no**'} |")


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
            content["parts"][name] = {"left_out": "out of time"}
            continue
        print(f"== {name}", flush=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            content["parts"][name] = part(device)
        except Exception as error:  # noqa: BLE001 - a failed part must not end the run
            traceback.print_exc()
            content["parts"][name] = {"failed": f"{type(error).__name__}: {error}"}
        content["graphs"] = not capture_failed()
        content["seconds"] = round(time.monotonic() - began, 1)
        content["binding_floor"] = binding_floor(content["parts"])
        content["summary"] = summary(content)
        (arguments.out / "gpu.json").write_text(json.dumps(content, indent=2) + "\n")
    show(summary(content))


if __name__ == "__main__":
    main()
