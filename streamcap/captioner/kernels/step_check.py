"""Compares the fused kernels of `triton_step` with torch's on this machine. Also a program, for `fused_step`:

    python -m streamcap.captioner.kernels.step_check '{"gpt2": {...}, "dtype": "float16", "device": "cuda:0"}'

makes random weights of this shape and prints `{"reason": null}`, or how the kernels differ.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from streamcap.captioner.decoding.cuda_graphs import capture
from streamcap.captioner.decoding.static_decode_state import StaticDecodeState
from streamcap.captioner.models.gpt2 import GPT2, GPT2Config

TOLERANCE = {torch.float16: 0.05, torch.bfloat16: 0.2, torch.float32: 1e-3}
"""Root mean square difference of the logits, as a share of their standard deviation over the vocabulary.

Both paths round: torch's also the logits themselves, which in bf16 alone gives about 0.05. A wrong position, head or
weight gives about 1.
"""
CHECK_POSITIONS = 160
CHECK_SHAPES = ((1, 1), (2, 1), (5, 1), (16, 1), (1, 4), (4, 4), (1, 16))
"""Rows and positions of a row: a pass of one query, and of several in a tile."""


Run = Callable[..., tuple[Tensor, Tensor, Tensor]]
"""See `models.backend.FusedStep`."""


@torch.inference_mode()
def disagreement(gpt2: GPT2, run: Run, shapes: tuple[tuple[int, int], ...] = CHECK_SHAPES) -> str | None:
    """How `run` differs from torch's kernels on random tokens and caches, or None if it agrees.

    Logits, keys and values within TOLERANCE; the token and its log-probability exactly those of the logits; no other
    position of the cache written. On a GPU, a CUDA graph of it must give the same.
    """
    generator = torch.Generator(gpt2.device).manual_seed(0)
    for rows, steps in shapes:
        reason = _Comparison(gpt2, rows, steps, generator).disagreement(run)
        if reason is not None:
            return f"they differ from torch's kernels at {rows} rows of {steps} positions: {reason}"
    return None


class _Comparison:
    """One pass of R rows and S positions from the same state, by torch and by the fused kernels."""

    def __init__(self, gpt2: GPT2, rows: int, steps: int, generator: torch.Generator) -> None:
        self.gpt2 = gpt2
        vocabulary = gpt2.config.vocab_size
        # Positions beyond the model's, as guesses need.
        positions = min(CHECK_POSITIONS, gpt2.config.n_positions + steps)
        self.state = StaticDecodeState(gpt2, rows, positions, 1, frozenset(), 0)
        device = gpt2.device
        for tensor in (self.state.cache.keys, self.state.cache.values):
            tensor.normal_(generator=generator)
        last = min(positions - steps, gpt2.config.n_positions - 1)
        lengths = [(1, last, 2, 63, 64, 65, last - 1)[row % 7] for row in range(rows)]
        self.state.length.copy_(torch.tensor(lengths, device=device).clamp(max=last))
        self.tokens = torch.randint(vocabulary, (rows, steps), generator=generator, device=device)
        self.written = (self.state.length[:, None] + torch.arange(steps, device=device))[None, :, None, :, None]

    def disagreement(self, run: Run) -> str | None:
        cache = self.state.cache
        before = cache.keys.clone(), cache.values.clone()
        expected = self.state.logits(self.tokens)
        caches = cache.keys.clone(), cache.values.clone()
        cache.keys.copy_(before[0])
        cache.values.copy_(before[1])

        def call() -> tuple[Tensor, ...]:
            return run(self.tokens, self.state.length, cache)

        chosen, scores, logits = call()
        tolerance = TOLERANCE[self.gpt2.dtype]
        for name, actual, reference in (
            ("logits", logits, expected),
            ("keys", self._new(cache.keys), self._new(caches[0])),
            ("values", self._new(cache.values), self._new(caches[1])),
        ):
            difference = _difference(actual, reference)
            if not difference <= tolerance:  # NaN is a difference, too
                return f"{name} by {difference:.2g} of their standard deviation, {tolerance:g} is allowed"
        for actual, old in ((cache.keys, before[0]), (cache.values, before[1])):
            untouched = actual.scatter(3, self._index(actual), self._new(old))
            if not torch.equal(untouched, old):
                return "other positions of the cache were written"
        if not torch.equal(logits.gather(2, chosen.unsqueeze(2)).squeeze(2), logits.amax(2)):
            return "a token is not the most probable one"
        exact = logits.double().log_softmax(2).gather(2, chosen.unsqueeze(2)).squeeze(2)
        if not torch.allclose(scores, exact, rtol=0, atol=1e-3):
            return "a log-probability is wrong"
        if self.gpt2.device.type == "cuda":
            graph, replayed = capture(call, (), self.gpt2.device)
            for tensor in replayed:
                tensor.zero_()
            graph.replay()
            if not all(torch.equal(one, other) for one, other in zip(replayed, (chosen, scores, logits), strict=True)):
                return "a CUDA graph of them gives something else"
        return None

    def _index(self, cache: Tensor) -> Tensor:
        layers, rows, heads, _, width = cache.shape
        return self.written.expand(layers, rows, heads, -1, width)

    def _new(self, cache: Tensor) -> Tensor:
        """What was written into a cache (L, R, H, P, D): (L, R, H, S, D)."""
        return cache.gather(3, self._index(cache))


def _difference(actual: Tensor, reference: Tensor) -> float:
    """The largest root mean square difference over the last dimension, beside the standard deviation of all."""
    difference = (actual.double() - reference.double()).square().mean(-1).sqrt().max()
    return float(difference / reference.double().std())


def main(argument: str) -> None:
    """Run the check that the argument describes; `shapes` may name other rows and positions than CHECK_SHAPES."""
    from streamcap.captioner.kernels.triton_step import TritonStep

    request: dict[str, Any] = json.loads(argument)
    gpt2 = GPT2(GPT2Config(**request["gpt2"])).eval().requires_grad_(False)
    gpt2 = gpt2.to(torch.device(request["device"]), getattr(torch, request["dtype"]))
    for name, weight in gpt2.named_parameters():
        weight.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    shapes = tuple((rows, steps) for rows, steps in request.get("shapes", CHECK_SHAPES))
    sys.stdout.write(json.dumps({"reason": disagreement(gpt2, TritonStep(gpt2), shapes)}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
