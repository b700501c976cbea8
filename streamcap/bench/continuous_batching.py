"""Continuous batching against whole batches, for frames of many streams that arrive one by one."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import Tensor

from streamcap.bench.decode import NEVER, PREFIX, TOKENS
from streamcap.captioner.decoding.batch import ContinuousBatch, StopCriteria
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.decoding.sampling import GreedySampler
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.prompt import Prompt

Batch = ContinuousBatch[int] | CudaGraphBatch[int]


def measure_continuous_batching(
    gpt2: GPT2, *, streams: int = 16, load: float = 0.7, seconds: float = 20.0, max_rows: int = 16
) -> dict[str, Any]:
    """Both policies with the same arrivals: evenly spaced frames per stream, each stream with another offset.

    load: arrivals per second, as a fraction of the throughput of whole batches of `streams` frames. Latencies are from
    a frame's arrival to its last token, in milliseconds.
    """
    torch.manual_seed(3)
    prefixes = 0.1 * torch.randn(streams, PREFIX, gpt2.config.n_embd, device=gpt2.device)
    best = _throughput(gpt2, prefixes, max_rows)
    every = streams / (load * best)
    arrivals = sorted(
        (round_number * every + number * every / streams, number)
        for round_number in range(max(1, int(seconds / every)))
        for number in range(streams)
    )
    rows = []
    for name, join in (("whole batches", False), ("continuous batching", True)):
        batch = _batch(gpt2, max_rows)
        _warm_up(batch, prefixes, max_rows)
        began = time.perf_counter()
        latencies = _run(batch, arrivals, prefixes, join=join)
        taken = time.perf_counter() - began
        cuts = statistics.quantiles(latencies, n=20)
        rows.append(
            {
                "policy": name,
                "captions": len(latencies),
                "captions_per_second": round(len(latencies) / taken, 2),
                "p50_ms": round(1000 * statistics.median(latencies), 1),
                "p95_ms": round(1000 * cuts[18], 1),
                "max_ms": round(1000 * max(latencies), 1),
            }
        )
    return {
        "question": "from frame to last token, frames of many streams arriving one by one",
        "streams": streams,
        "load": load,
        "whole_batches_captions_per_second": round(best, 2),
        "rows": rows,
    }


def _batch(gpt2: GPT2, max_rows: int) -> Batch:
    stop_criteria = StopCriteria(TOKENS, frozenset({NEVER}))
    if gpt2.device.type == "cuda":
        return CudaGraphBatch(gpt2, stop_criteria, max_rows=max_rows)
    return ContinuousBatch(gpt2, GreedySampler(), stop_criteria, max_rows=max_rows)


def _warm_up(batch: Batch, prefixes: Tensor, max_rows: int) -> None:
    """Run every batch size, largest first, so that no latency includes the capture of a CUDA graph."""
    count = max_rows
    while count:
        for number in range(count):
            batch.add(number, Prompt(prefixes[number % len(prefixes)]))
        while batch.active:
            batch.step()
        count //= 2


def _throughput(gpt2: GPT2, prefixes: Tensor, max_rows: int) -> float:
    """Captions per second of whole batches without a pause."""
    batch = _batch(gpt2, max_rows)
    taken = []
    for _ in range(4):
        began = time.perf_counter()
        for number, prefix in enumerate(prefixes):
            batch.add(number, Prompt(prefix))
        while batch.active:
            batch.step()
        taken.append(time.perf_counter() - began)
    return len(prefixes) / min(taken[1:])


def _run(batch: Batch, arrivals: list[tuple[float, int]], prefixes: Tensor, *, join: bool) -> list[float]:
    """The latency of each caption, seconds. join: frames join a batch that runs; else they wait for its end."""
    latencies: list[float] = []
    arrived: dict[int, float] = {}
    began = time.perf_counter()
    pending = list(reversed(arrivals))
    number = 0
    while pending or batch.active:
        now = time.perf_counter() - began
        if join or not batch.active:
            while pending and pending[-1][0] <= now:
                at, stream = pending.pop()
                arrived[number] = at
                batch.add(number, Prompt(prefixes[stream]))
                number += 1
        if not batch.active:
            time.sleep(max(0.0, pending[-1][0] - now))
            continue
        finished = batch.step()
        now = time.perf_counter() - began
        latencies += [now - arrived.pop(row.key) for row in finished]
    return latencies


def table(result: dict[str, Any]) -> str:
    """The rows as text, one line each."""
    lines = [f"{'policy':<20}{'captions':>9}{'captions/s':>12}{'p50 ms':>9}{'p95 ms':>9}{'max ms':>9}"]
    lines += [
        f"{row['policy']:<20}{row['captions']:>9}{row['captions_per_second']:>12.1f}{row['p50_ms']:>9.0f}"
        f"{row['p95_ms']:>9.0f}{row['max_ms']:>9.0f}"
        for row in result["rows"]
    ]
    return "\n".join(lines)
