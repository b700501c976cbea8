"""`SearchOptions`: how a caption is decoded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamcap.errors import InputError

MAX_BEAMS = 64


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """Greedy search by default; beam search if `beam_size` is above 1, sampling if `temperature` is above 0.

    Raises InputError for a value out of range, and for beam search combined with sampling.
    """

    beam_size: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    """Nucleus sampling: draw from the fewest tokens whose probabilities add up to this."""
    seed: int | None = None
    """Random seed; a seed gives the same captions in any batch. None: a new seed."""
    max_tokens: int | None = None
    """The limit of generated tokens; None: the model's default."""

    def __post_init__(self) -> None:
        if isinstance(self.beam_size, bool) or not isinstance(self.beam_size, int):
            raise InputError(f"beam_size is a whole number, not {self.beam_size!r}")
        if not 1 <= self.beam_size <= MAX_BEAMS:
            raise InputError(f"beam_size is between 1 and {MAX_BEAMS}, not {self.beam_size}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature is 0 (greedy) or above, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is above 0 and at most 1, not {self.top_p}")
        if self.beam_size > 1 and self.temperature > 0:
            raise InputError("beam search does not sample: set either beam_size above 1 or temperature above 0")
        if self.max_tokens is not None and (
            isinstance(self.max_tokens, bool) or not isinstance(self.max_tokens, int) or self.max_tokens < 1
        ):
            raise InputError(f"max_tokens is a whole number of at least 1, not {self.max_tokens!r}")
