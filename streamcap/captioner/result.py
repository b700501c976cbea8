"""`Result`: one caption, as the captioner returns it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One caption."""

    text: str
    """Empty if no tokenizer is available. Of a checkpoint with tags it may be a short sentence about what they are
    sure of, instead of what `tokens` say."""
    tokens: list[int]
    """The generated tokens, including the stop token if it was reached."""
    logprob: float
    """Mean natural-log probability of `tokens` under the model (at temperature 1); 0.0 without tokens."""
    confidence: float | None = None
    """Probability, from 0 to 1, that no object word of the caption is false; None if the model cannot say."""
    passes: int = 0
    """GPT-2 passes for this caption, including the prefill; without drafts, one per token."""
