"""How many passes and how much time do drafts save on real clips? A stream's past is its next caption's draft.

    python benchmarks/drafts.py CLIP [CLIP ...] [--model mini] [--every 1.0] [--rounds 3]

Each clip is one stream, a caption every so many seconds. Its images are encoded once; decoding is timed with and
without drafts, caption by caption in turn. `absurd` gives every caption a draft of random tokens.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.gate_threshold import sampled
from streamcap import load_captioner
from streamcap.bench.machine import describe_machine
from streamcap.captioner import Captioner, Result
from streamcap.captioner.decoding.drafts import DraftHistory
from streamcap.media.convert import Converter

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two captions")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    captioner = load_captioner(arguments.model, precision=arguments.precision)
    rows = [measure(captioner, clip, arguments.every, arguments.rounds) for clip in arguments.clips]
    print(table(rows))
    content = {"question": "passes and time with a stream's past as draft", "every": arguments.every, "rows": rows}
    content |= {"model": captioner.info, "machine": describe_machine(torch.device("cpu"))}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "drafts.json").write_text(json.dumps(content, indent=2) + "\n")


def measure(captioner: Captioner, clip: Path, every: float, rounds: int) -> dict[str, Any]:
    """One clip: passes a token, and time a caption beside the same captions without drafts."""
    convert = Converter(captioner.image_spec)
    frames = [convert.convert(frame) for frame in sampled(clip, every)]
    embeddings = [captioner.encode(np.stack([frame])) for frame in frames]
    vocabulary = captioner.info["gpt2"]["vocabulary"]
    ratios: dict[str, list[float]] = {"history": [], "absurd": [], "absurd, after ten": []}
    plain_ms: list[float] = []
    passes = tokens = 0
    same = True
    for number in range(rounds):
        history, chance = DraftHistory(), random.Random(number)
        taken: dict[str, list[float]] = {"plain": [], "history": [], "absurd": []}
        for embedding in embeddings:
            stream = history.stream("clip")
            absurd = [chance.randrange(vocabulary) for _ in range(20)]
            plain = _timed(partial(captioner.decode, embedding), taken["plain"])
            found = _timed(partial(captioner.decode, embedding, drafts=[stream]), taken["history"])
            wrong = _timed(partial(captioner.decode, embedding, drafts=[absurd]), taken["absurd"])
            stream.add(found.tokens)
            same = same and plain.tokens == found.tokens == wrong.tokens
            passes, tokens = passes + found.passes, tokens + len(found.tokens)
        plain_ms.append(1000 * statistics.mean(taken["plain"]))
        ratios["history"].append(sum(taken["history"]) / sum(taken["plain"]))
        ratios["absurd"].append(sum(taken["absurd"]) / sum(taken["plain"]))
        ratios["absurd, after ten"].append(sum(taken["absurd"][10:]) / max(1e-9, sum(taken["plain"][10:])))
    return {
        "clip": clip.name,
        "captions": len(embeddings),
        "tokens": tokens // rounds,
        "passes": round(passes / rounds, 1),
        "passes_per_token": round(passes / tokens, 3),
        "plain_ms_per_caption": round(statistics.median(plain_ms), 3),
        "same_tokens": same,
        "time_to_plain": {name: round(statistics.median(found), 3) for name, found in ratios.items()},
    }


def _timed(decode: Callable[[], Sequence[Result]], seconds: list[float]) -> Result:
    began = time.perf_counter()
    (result,) = decode()
    seconds.append(time.perf_counter() - began)
    return result


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text, one line each."""
    lines = [
        f"{'clip':<36}{'captions':>9}{'tokens':>8}{'passes':>9}{'/ token':>9}{'plain ms':>10}{'× plain':>9}"
        f"{'absurd':>9}{'after 10':>10}  tokens"
    ]
    for row in rows:
        ratio = row["time_to_plain"]
        lines.append(
            f"{row['clip']:<36}{row['captions']:>9}{row['tokens']:>8}{row['passes']:>9.0f}{row['passes_per_token']:>9.3f}"
            f"{row['plain_ms_per_caption']:>10.2f}{ratio['history']:>9.2f}{ratio['absurd']:>9.2f}"
            f"{ratio['absurd, after ten']:>10.2f}  {'same' if row['same_tokens'] else 'differ'}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
