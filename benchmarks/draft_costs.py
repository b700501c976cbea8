"""What a draft that is right saves, and what one that is absurd costs: GPT-2 124M with random weights.

    python -m benchmarks.draft_costs [--frames 1 4] [--rounds 7] [--threads 1 --cpu-time]

A prefix of 10 positions and 20 tokens, greedy. "absurd, first": random tokens, for a captioner that has seen no draft;
"absurd, later": after ten such captions. The tokens must equal those without drafts. Goals: right ≤ 0.30 × without a
draft at one frame and ≤ 0.35 × at four; absurd ≤ 1.10 × at first and ≤ 1.02 × later.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.results import RESULTS, write_result
from streamcap.bench.decode import NEVER, PREFIX, TOKENS, decode, ours, random_gpt2
from streamcap.bench.machine import describe_machine, usual_precisions
from streamcap.bench.timing import interleaved, ratio
from streamcap.captioner.decoding.batch import ContinuousBatch, StopCriteria
from streamcap.captioner.decoding.draft_budget import DraftBudget
from streamcap.captioner.decoding.drafts import Acceptances, DraftStatistics, draft_sources
from streamcap.captioner.decoding.sampling import GreedySampler
from streamcap.captioner.decoding.verifier import Verifier
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.prompt import Prompt

LATER = 10
"""Captions with an absurd draft before those of "absurd, later"."""
PLAIN = "without a draft"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="as torch chooses unless given")
    parser.add_argument(
        "--cpu-time", action="store_true", help="with --threads 1, on a machine that others use as well"
    )
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    device = torch.device("cpu")
    model = random_gpt2()
    rows: list[dict[str, Any]] = []
    for precision in usual_precisions(device):
        gpt2 = ours(model, precision, device)
        for frames in arguments.frames:
            rows += measure(gpt2, precision, frames, arguments.rounds, clock)
    for row in rows:
        passes = "" if row["passes"] is None else f"{row['passes']:.1f} passes"
        print(
            f"{row['precision']:<6}{row['frames']:>3} frames  {row['draft']:<16}{row['median_ms']:>9.1f} ms"
            f"{row['to_plain']:>7.3f} × {passes:<12}{'same' if row['same_tokens'] else 'other'} tokens"
        )
    content = {
        "question": f"time of a draft, GPT-2 124M, prefix {PREFIX}, {TOKENS} tokens",
        "clock": "CPU" if arguments.cpu_time else "wall",
        "rows": rows,
        "machine": describe_machine(device),
    }
    write_result(RESULTS / "draft_costs-cpu.json", content)


class Drafted:
    """Decodes with drafts, and remembers what they were worth."""

    def __init__(self, gpt2: GPT2) -> None:
        self.statistics = DraftStatistics()
        self._gpt2, self._acceptances = gpt2, Acceptances()
        self._verifier = Verifier(DraftBudget(), self.statistics, gpt2.config.vocab_size)

    def __call__(self, prefixes: Tensor, drafts: list[list[int]] | None) -> list[list[int]]:
        config, count = self._gpt2.config, len(prefixes)
        given = drafts if drafts is not None else [None] * count
        sources = draft_sources(given, count, config.vocab_size, config.n_positions, self._acceptances)
        batch: ContinuousBatch[int] = ContinuousBatch(
            self._gpt2,
            GreedySampler(),
            StopCriteria(TOKENS, frozenset({NEVER})),
            max_rows=count,
            verifier=self._verifier,
        )
        for number, (prefix, source) in enumerate(zip(prefixes, sources, strict=True)):
            batch.add(number, Prompt(prefix), source)
        finished: dict[int, list[int]] = {}
        while batch.active:
            finished |= {row.key: row.tokens for row in batch.step()}
        return [finished[number] for number in range(count)]


def measure(gpt2: GPT2, precision: str, frames: int, rounds: int, clock: Callable[[], float]) -> list[dict[str, Any]]:
    """The rows of one precision and number of frames."""
    torch.manual_seed(frames)
    prefixes = 0.1 * torch.randn(frames, PREFIX, gpt2.config.n_embd)
    chance = random.Random(frames)
    expected = decode(gpt2, prefixes)
    wrong: dict[str, int] = {}

    def checked(name: str, decoder: Callable[[], Drafted], drafts: Callable[[], list[list[int]] | None]) -> None:
        wrong[name] = wrong.get(name, 0) + (decoder()(prefixes, drafts()) != expected)

    def absurd() -> list[list[int]]:
        return [[chance.randrange(gpt2.config.vocab_size) for _ in range(TOKENS)] for _ in range(frames)]

    right, plain = Drafted(gpt2), Drafted(gpt2)
    misled = Drafted(gpt2)
    for _ in range(LATER):
        misled(prefixes, absurd())
    contenders: dict[str, Callable[[], None]] = {
        PLAIN: partial(checked, PLAIN, lambda: plain, lambda: None),
        "right": partial(checked, "right", lambda: right, lambda: expected),
        "absurd, first": partial(checked, "absurd, first", lambda: Drafted(gpt2), absurd),
        "absurd, later": partial(checked, "absurd, later", lambda: misled, absurd),
    }
    timings = interleaved(contenders, torch.device("cpu"), rounds=rounds, clock=clock)
    statistics = {PLAIN: plain.statistics, "right": right.statistics, "absurd, later": misled.statistics}
    return [
        {
            "precision": precision,
            "frames": frames,
            "draft": name,
            "median_ms": round(1000 * timing.median, 2),
            "to_plain": round(ratio(timing, timings[PLAIN]), 3),
            "passes": _passes(statistics.get(name)),
            "same_tokens": not wrong[name],
        }
        for name, timing in timings.items()
    ]


def _passes(statistics: DraftStatistics | None) -> float | None:
    """Of a caption, on average."""
    return None if statistics is None else round(TOKENS * statistics.passes / statistics.tokens, 2)


if __name__ == "__main__":
    main()
