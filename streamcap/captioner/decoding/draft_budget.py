"""How many tokens to guess: as long as a guess saves more time than it costs."""

from __future__ import annotations

from collections.abc import Sequence

MAX_GUESSES = 24
"""Guessed tokens of one row in one pass."""
_PRIOR_SLOPE = 0.15
"""What one more position costs, as a share of what a pass costs at least, before passes were measured."""
_MIN_SLOPE, _MAX_SLOPE = 0.005, 2.0
_MEMORY = 0.98
"""Weight that earlier passes keep when a new one is measured: about the last fifty count."""
_MIN_PASSES = 8.0
"""Passes, by weight, before the fit is believed."""
_WARM_UP_PASSES = 4
"""The first passes, which pay for allocations and cold caches, are not measured."""
_OUTLIER = 4.0
"""A pass that took longer than so many times what was expected counts as this: the machine was busy."""


class DraftBudget:
    """Chooses the number of guesses from measured passes and the guesses' probabilities.

    A pass over n positions is taken to cost `fixed + each * n`, fitted by least squares to the passes of this machine.
    """

    def __init__(self) -> None:
        # Exponentially weighted sums: 1, n, n², seconds, n x seconds.
        self._sums = [0.0] * 5
        self._gain = 1.0
        self._unmeasured = _WARM_UP_PASSES

    @property
    def slope(self) -> float:
        """each / fixed."""
        fixed, each = self._fit()
        return each / fixed

    def record(self, positions: float, seconds: float, rows: int, tokens: int) -> None:
        """A pass over so many positions, of all rows together, that gave `rows` captions `tokens` tokens."""
        if self._unmeasured:
            self._unmeasured -= 1
            return
        if self._sums[0] >= _MIN_PASSES:
            fixed, each = self._fit()
            seconds = min(seconds, _OUTLIER * (fixed + each * positions))
        new = (1.0, positions, positions * positions, seconds, positions * seconds)
        self._sums = [old * _MEMORY + value for old, value in zip(self._sums, new, strict=True)]
        self._gain = self._gain * 0.9 + 0.1 * tokens / rows

    def guesses(self, rows: Sequence[tuple[float, int]], max_guesses: int) -> int:
        """How many tokens every row guesses, at most `max_guesses`.

        rows: of each the probability that a guessed token is right, and how many tokens its guess has. All rows of a
        pass are equally wide, so that a row with a shorter guess pays for the others'.
        """
        if not rows:
            return 0
        slope, count = self.slope, len(rows)
        # A token saved is worth a plain pass, shared by its rows, less what the other guesses save of it.
        worth = (1 + slope * count) / (count * max(1.0, self._gain))
        cost = slope * count
        max_guesses = min(max_guesses, MAX_GUESSES)
        chances = [1.0] * count
        for width in range(1, max_guesses + 1):
            chances = [
                chance * probability if available >= width else 0.0
                for chance, (probability, available) in zip(chances, rows, strict=True)
            ]
            if sum(chances) * worth < cost:
                return width - 1
        return max(0, max_guesses)

    def _fit(self) -> tuple[float, float]:
        weight, n, nn, seconds, n_seconds = self._sums
        spread = weight * nn - n * n
        # Passes of one width alone say nothing of others.
        if weight < _MIN_PASSES or spread < 0.01 * nn * weight:
            mean, width = (seconds / weight, n / weight) if weight else (1.0, 1.0)
            fixed = mean / (1 + _PRIOR_SLOPE * width)
            return fixed, _PRIOR_SLOPE * fixed
        each = (weight * n_seconds - n * seconds) / spread
        fixed = (seconds - each * n) / weight
        mean = seconds / weight
        fixed = max(fixed, 1e-3 * mean)
        return fixed, min(max(each, _MIN_SLOPE * fixed), _MAX_SLOPE * fixed)
