"""Guesses out of earlier captions, and how many of them are worth a pass."""

from __future__ import annotations

import random

import pytest

from streamcap.captioner.decoding.draft_budget import MAX_GUESSES, DraftBudget
from streamcap.captioner.decoding.drafts import (
    Acceptance,
    Acceptances,
    CaptionIndex,
    DraftHistory,
    DraftStatistics,
    TokenDraft,
)
from streamcap.captioner.decoding.verifier import Verifier, accepted

STOP = frozenset({9})


def test_first_guess_is_the_newest_caption() -> None:
    stream = DraftHistory().stream("door")
    assert list(stream.propose([]).tokens) == []
    stream.add([1, 2, 3, 9])
    stream.add([4, 5, 9])
    assert list(stream.propose([]).tokens) == [4, 5, 9]
    stream.add([1, 2, 3, 9])
    assert list(stream.propose([]).tokens) == [1, 2, 3, 9]


def test_guess_after_mismatch_has_longest_context() -> None:
    stream = DraftHistory().stream("door")
    stream.add([1, 2, 3, 4, 9])
    stream.add([7, 3, 5, 9])
    assert list(stream.propose([8, 3]).tokens) == [5, 9], "the newest, where one token is all that is known"
    assert list(stream.propose([8, 2, 3]).tokens) == [4, 9]
    assert stream.propose([8, 2, 3]).context == 2
    assert list(stream.propose([8, 8]).tokens) == []


def test_other_streams_help_where_own_past_does_not() -> None:
    history = DraftHistory()
    history.stream("door").add([1, 2, 3, 9])
    yard = history.stream("yard")
    assert list(yard.propose([]).tokens) == [1, 2, 3, 9]
    yard.add([5, 2, 6, 9])
    assert list(yard.propose([5, 2]).tokens) == [6, 9]
    assert list(yard.propose([1, 2]).tokens) == [3, 9]


def test_history_is_bounded() -> None:
    index = CaptionIndex(2)
    for first in range(5):
        index.add([first, 50 + first])
    assert len(index) == 2
    assert list(index.find((0,))) == [] and list(index.find((4,))) == [54]
    assert len(index._next) == 5
    history = DraftHistory(max_streams=2)
    for name in ("a", "b", "a", "c"):
        history.stream(name).add([1, 2])
    assert len(history) == 2 and list(history.stream("a")._own.find((1,))) == [2]


def test_accepted_is_the_matching_run_and_one_more() -> None:
    assert accepted([1, 2, 3], [1, 2, 3, 4], STOP, 99) == [1, 2, 3, 4]
    assert accepted([1, 2, 3], [1, 5, 3, 4], STOP, 99) == [1, 5]
    assert accepted([1, 9, 3], [1, 9, 3, 4], STOP, 99) == [1, 9]
    assert accepted([1, 2, 3], [1, 2, 3, 4], STOP, 2) == [1, 2]
    assert accepted([], [7], STOP, 99) == [7]


def test_acceptance_follows_recent_outcomes() -> None:
    acceptance = Acceptance()
    for _ in range(10):
        acceptance.record(8, 8)
    assert acceptance.probability > 0.95
    for _ in range(10):
        acceptance.record(8, 0)
    assert acceptance.probability < 0.1
    for _ in range(200):
        acceptance.skip()
    assert acceptance.probability > 0.7, "a source that was bad is tried again"


def measured(slope: float, *, noise: float = 0.0) -> DraftBudget:
    budget, chance = DraftBudget(), random.Random(1)
    for _ in range(40):
        for positions in (10, 1, 1, 1, 12):
            budget.record(positions, 0.003 * (1 + slope * positions) * (1 + noise * chance.random()), 1, 1)
    return budget


def test_guesses_that_were_right_do_not_end_guessing() -> None:
    budget, rows = measured(0.08), 4
    for _ in range(30):
        budget.record(rows * 20, 0.003 * (1 + 0.08 * rows * 20), rows, rows * 20, 20)
    assert budget.guesses([(0.98, 19)] * rows, 24) > 5


@pytest.mark.parametrize("slope", [0.01, 0.15, 0.5])
def test_budget_fits_measured_passes(slope: float) -> None:
    assert measured(slope).slope == pytest.approx(slope, rel=0.01)
    assert measured(slope, noise=0.2).slope == pytest.approx(slope, rel=0.5)


def test_budget_ignores_an_outlier() -> None:
    budget = measured(0.15)
    budget.record(1, 5.0, 1, 1)
    assert budget.slope == pytest.approx(0.15, rel=0.4)


def test_budget_guesses_more_when_right_and_cheap() -> None:
    budget = measured(0.15)
    likely, even, unlikely = (budget.guesses([(chance, 50)], 99) for chance in (0.97, 0.5, 0.05))
    assert likely == MAX_GUESSES and 2 <= even <= 4 and unlikely == 0
    assert budget.guesses([(0.97, 3)], 99) == 3 and budget.guesses([(0.97, 50)], 7) == 7
    assert measured(1.5).guesses([(0.5, 50)], 99) < even
    assert budget.guesses([], 99) == 0


def test_budget_weighs_rows_without_a_guess() -> None:
    budget = measured(0.5)
    assert budget.guesses([(0.9, 9), (0.9, 9)], 99) > budget.guesses([(0.9, 9)] + [(0.0, 0)] * 7, 99)


class Row:
    def __init__(self, draft: TokenDraft) -> None:
        self.limit, self.tokens, self.draft = 30, list[int](), draft


def test_absurd_drafts_soon_cost_little() -> None:
    statistics, acceptances = DraftStatistics(), Acceptances()
    verifier = Verifier(measured(0.15), statistics, 100)
    widths = []
    for _ in range(30):
        row = Row(TokenDraft([7] * 20, acceptances))
        plan = verifier.plan([row], 99)
        widths.append(plan.width)
        verifier.learn([row], plan, [[1]])
    assert 1 < widths[0] <= 16 and 1 <= sum(widths[10:]) <= 12, "it is tried again now and then"


def test_guesses_outside_the_vocabulary_are_dropped() -> None:
    statistics = DraftStatistics()
    verifier = Verifier(measured(0.15), statistics, 100)
    plan = verifier.plan([Row(TokenDraft([7, 8, 100, 3], Acceptances()))], 99)
    assert list(plan.guesses[0].tokens) == [7, 8] and statistics.dropped == 1
