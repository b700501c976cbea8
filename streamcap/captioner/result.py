"""What a caption is when it leaves the captioner."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """One caption."""

    text: str
    """Empty when the checkpoint has no tokenizer at hand."""
    tokens: list[int]
    """The new tokens alone, the stop token included where it was reached."""
    logprob: float
    """Mean natural-log probability of `tokens` under the model (at temperature 1); 0.0 when there are none."""
    confidence: float | None = None
    """Estimated probability, from 0 to 1, that no object word of the caption is false; None where the checkpoint cannot
    say."""
