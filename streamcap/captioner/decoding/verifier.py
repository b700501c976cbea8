"""Selects the guesses that a pass verifies, and accepts them (greedy speculative decoding, Leviathan et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from streamcap.captioner.decoding.draft_budget import DraftBudget
from streamcap.captioner.decoding.drafts import NO_GUESS, DraftSource, DraftStatistics, Guess


class DraftedRow(Protocol):
    """An unfinished caption that may have a draft."""

    @property
    def limit(self) -> int: ...
    @property
    def tokens(self) -> list[int]: ...
    @property
    def draft(self) -> DraftSource | None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """The guesses of one pass over R rows, at most K = `width` tokens each."""

    guesses: Sequence[Guess]
    width: int

    def tensor(self, device: torch.device) -> Tensor:
        """(R, K) int64; short guesses are padded with 0."""
        rows = [[*guess.tokens, *[0] * (self.width - len(guess.tokens))] for guess in self.guesses]
        return torch.tensor(rows, dtype=torch.int64).to(device)


NO_PLAN = Plan((), 0)


class Verifier:
    """Plans guesses within a budget, and learns from how many were accepted."""

    def __init__(self, budget: DraftBudget, statistics: DraftStatistics, vocabulary: int) -> None:
        self._budget = budget
        self._statistics = statistics
        self._vocabulary = vocabulary

    def plan(self, rows: Sequence[DraftedRow], available: int) -> Plan:
        """Guesses for these rows, at most `available` tokens each."""
        guesses = [self._guess(row) for row in rows]
        longest = max((len(guess.tokens) for guess in guesses), default=0)
        if not longest:
            return NO_PLAN
        chances = [
            (0.0 if row.draft is None else row.draft.acceptances[guess.context].probability, len(guess.tokens))
            for row, guess in zip(rows, guesses, strict=True)
        ]
        width = self._budget.guesses(chances, min(available, longest))
        if not width:
            for row, guess in zip(rows, guesses, strict=True):
                if row.draft is not None and guess.tokens:
                    row.draft.acceptances[guess.context].skip()
            return NO_PLAN
        return Plan([Guess(guess.tokens[:width], guess.context) for guess in guesses], width)

    def _guess(self, row: DraftedRow) -> Guess:
        if row.draft is None:
            return NO_GUESS
        guess = row.draft.propose(row.tokens)
        # Every pass yields one token without a guess, so the caption's last token needs none.
        tokens = guess.tokens[: max(0, row.limit - len(row.tokens) - 1)]
        invalid = next((index for index, token in enumerate(tokens) if not 0 <= token < self._vocabulary), None)
        if invalid is not None:
            self._statistics.dropped += 1
            tokens = tokens[:invalid]
        return Guess(tokens, guess.context)

    def learn(
        self, rows: Sequence[DraftedRow], plan: Plan, gained: Sequence[Sequence[int]], passes: int | None = None
    ) -> None:
        """Record a pass. gained: the tokens of each row: the accepted guesses, and one that the pass yields itself.

        passes: over all rows, if there were several passes without guesses.
        """
        self._statistics.passes += len(rows) if passes is None else passes
        self._statistics.tokens += sum(len(tokens) for tokens in gained)
        if not plan.width:
            return
        for row, guess, tokens in zip(rows, plan.guesses, gained, strict=True):
            matches = sum(one == other for one, other in zip(guess.tokens, tokens, strict=False))
            self._statistics.proposed += len(guess.tokens)
            self._statistics.accepted += matches
            if row.draft is not None and guess.tokens:
                row.draft.acceptances[guess.context].record(min(len(guess.tokens), len(tokens)), matches)

    def measure(self, positions: int, gained: Sequence[int], seconds: float, width: int) -> None:
        """Record the time of a pass. positions: of all rows together; gained: number of tokens of each row.

        width: of its plan.
        """
        self._budget.record(positions, seconds, len(gained), sum(gained), 1 + width)


def accepted(guess: Sequence[int], chosen: Sequence[int], stop_tokens: frozenset[int], limit: int) -> list[int]:
    """The tokens that decoding without drafts would give, at most `limit` and up to a stop token.

    chosen[0] is the model's next token, chosen[i + 1] the one after guess[i]; it is valid only if guess[i] is right.
    """
    tokens: list[int] = []
    for index, token in enumerate(chosen):
        tokens.append(token)
        if token in stop_tokens or len(tokens) >= limit or index >= len(guess) or guess[index] != token:
            break
    return tokens
