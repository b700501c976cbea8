"""How many decoder passes, and how much time, do drafts from a stream's own history save on real clips?

    python -m benchmarks.drafts CLIP [CLIP ...] [--model mini] [--every 1.0] [--captions 30] [--rounds 3]

Each clip is one stream, sampled every `--every` seconds. Its frames are encoded once. Each caption is then decoded
without a draft, with the stream's history as draft, and with a draft of random tokens (the worst case).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gate_threshold import sampled
from benchmarks.results import RESULTS, write_result
from streamcap import load_captioner
from streamcap.bench.machine import describe_machine
from streamcap.captioner import Captioner, Result
from streamcap.captioner.decoding.drafts import DraftHistory
from streamcap.media.convert import Converter

RANDOM_DRAFT_TOKENS = 20
WARM_UP_CAPTIONS = 10
"""Captions of a clip after which the draft budget has seen that random drafts fail."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two captions")
    parser.add_argument("--captions", type=int, default=30, help="captions a clip, at most")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    captioner = load_captioner(arguments.model, precision=arguments.precision)
    rows = [measure(captioner, clip, arguments.every, arguments.captions, arguments.rounds) for clip in arguments.clips]
    print(table(rows))
    content = {
        "question": "decoder passes and time with a stream's history as draft",
        "model": arguments.model,
        "precision": captioner.info["precision"],
        "gpt2": captioner.info["gpt2"],
        "every": arguments.every,
        "rounds": arguments.rounds,
        "rows": rows,
        "machine": describe_machine(torch.device("cpu")),
    }
    write_result(RESULTS / "drafts-cpu.json", content)


def measure(captioner: Captioner, clip: Path, every: float, captions: int, rounds: int) -> dict[str, Any]:
    """One clip: passes per token, and time per caption relative to decoding without drafts."""
    convert = Converter(captioner.image_spec)
    frames = [convert.convert(frame) for frame in sampled(clip, every, captions)]
    embeddings = [captioner.encode(np.stack([frame])) for frame in frames]
    vocabulary = captioner.info["gpt2"]["vocabulary"]
    ratios: dict[str, list[float]] = {"history": [], "random": [], "random_after_10": []}
    plain_ms: list[float] = []
    passes = tokens = 0
    same = True
    for number in range(rounds):
        history, rng = DraftHistory(), random.Random(number)
        taken: dict[str, list[float]] = {"plain": [], "history": [], "random": []}
        for embedding in embeddings:
            stream = history.stream("clip")
            random_draft = [rng.randrange(vocabulary) for _ in range(RANDOM_DRAFT_TOKENS)]
            plain = _timed(partial(captioner.decode, embedding), taken["plain"])
            drafted = _timed(partial(captioner.decode, embedding, drafts=[stream]), taken["history"])
            misled = _timed(partial(captioner.decode, embedding, drafts=[random_draft]), taken["random"])
            stream.add(drafted.tokens)
            same = same and plain.tokens == drafted.tokens == misled.tokens
            passes, tokens = passes + drafted.passes, tokens + len(drafted.tokens)
        plain_ms.append(1000 * statistics.mean(taken["plain"]))
        ratios["history"].append(_ratio(taken["history"], taken["plain"]))
        ratios["random"].append(_ratio(taken["random"], taken["plain"]))
        later = {name: seconds[WARM_UP_CAPTIONS:] for name, seconds in taken.items()}
        ratios["random_after_10"].append(_ratio(later["random"], later["plain"]))
    return {
        "clip": clip.name,
        "captions": len(embeddings),
        "tokens": tokens // rounds,
        "passes": round(passes / rounds, 1),
        "passes_per_token": round(passes / tokens, 3),
        "plain_ms_per_caption": round(statistics.median(plain_ms), 3),
        "same_tokens": same,
        "time_to_plain": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
    }


def _timed(decode: Callable[[], Sequence[Result]], seconds: list[float]) -> Result:
    began = time.perf_counter()
    (result,) = decode()
    seconds.append(time.perf_counter() - began)
    return result


def _ratio(seconds: Sequence[float], plain: Sequence[float]) -> float:
    """NaN for a clip too short to have such captions."""
    return sum(seconds) / sum(plain) if plain else float("nan")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text, one line each."""
    lines = [
        f"{'clip':<36}{'captions':>9}{'tokens':>8}{'passes':>9}{'/ token':>9}{'plain ms':>10}{'× plain':>9}"
        f"{'random':>9}{'after 10':>10}  tokens"
    ]
    for row in rows:
        ratio = row["time_to_plain"]
        lines.append(
            f"{row['clip']:<36}{row['captions']:>9}{row['tokens']:>8}{row['passes']:>9.0f}{row['passes_per_token']:>9.3f}"
            f"{row['plain_ms_per_caption']:>10.2f}{ratio['history']:>9.2f}{ratio['random']:>9.2f}"
            f"{ratio['random_after_10']:>10.2f}  {'same' if row['same_tokens'] else 'differ'}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
