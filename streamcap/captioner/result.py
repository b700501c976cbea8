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
    passes: int = 0
    """How often GPT-2 was run for this caption, the pass over the prefix included; without drafts, one a token."""
