"""`DraftBudget`: the number of tokens to guess, so that a guess saves more time than it costs."""

from __future__ import annotations

from collections.abc import Sequence

MAX_GUESSES = 24
"""Guessed tokens per row and pass, at most."""
_PRIOR_SLOPE = 0.15
"""Assumed cost of one more position, as a fraction of a pass's fixed cost, before any measurement."""
_MIN_SLOPE, _MAX_SLOPE = 0.005, 2.0
_MEMORY = 0.98
"""Decay of the weight of earlier passes: the fit covers about the last fifty."""
_MIN_PASSES = 8.0
"""Sum of weights from which the fit is used."""
_WARM_UP_PASSES = 4
"""The first passes are not measured: they include allocations and cold caches."""
_OUTLIER = 4.0
"""A pass is counted as at most this many times its expected duration: the machine may have been busy."""


class DraftBudget:
    """Computes the number of guesses from measured passes and the guesses' probabilities.

    Model: a pass over n positions costs `fixed + each * n`, fitted by least squares to the measured passes.
    """

    def __init__(self) -> None:
        # Exponentially weighted sums: 1, n, n², seconds, n x seconds.
        self._sums = [0.0] * 5
        # Averages of a pass, for each row: tokens it gave, and positions that could give one.
        self._gain = self._width = 1.0
        self._unmeasured = _WARM_UP_PASSES

    @property
    def slope(self) -> float:
        """each / fixed."""
        fixed, each = self._fit()
        return each / fixed

    def record(self, positions: float, seconds: float, rows: int, tokens: int, width: int = 1) -> None:
        """Record a pass over `positions` positions of all rows together; it gave `rows` captions `tokens` tokens.

        width: positions of each row that could give a token: the guesses, and one.
        """
        if self._unmeasured:
            self._unmeasured -= 1
            return
        if self._sums[0] >= _MIN_PASSES:
            fixed, each = self._fit()
            seconds = min(seconds, _OUTLIER * (fixed + each * positions))
        new = (1.0, positions, positions * positions, seconds, positions * seconds)
        self._sums = [old * _MEMORY + value for old, value in zip(self._sums, new, strict=True)]
        self._gain = self._gain * 0.9 + 0.1 * tokens / rows
        self._width = self._width * 0.9 + 0.1 * width

    def guesses(self, rows: Sequence[tuple[float, int]], max_guesses: int) -> int:
        """The number of tokens that every row guesses, at most `max_guesses`.

        rows: for each the probability that a guessed token is right, and the length of its guess. All rows of a pass
        have the same width: a row with a shorter guess is padded, at full cost.
        """
        if not rows:
            return 0
        slope, count = self.slope, len(rows)
        # A saved token is worth what a token costs on average: a pass as wide as usual, divided by its tokens.
        worth = (1 + slope * count * self._width) / (count * max(1.0, self._gain))
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
        # Passes of a single width do not determine the slope.
        if weight < _MIN_PASSES or spread < 0.01 * nn * weight:
            mean, width = (seconds / weight, n / weight) if weight else (1.0, 1.0)
            fixed = mean / (1 + _PRIOR_SLOPE * width)
            return fixed, _PRIOR_SLOPE * fixed
        each = (weight * n_seconds - n * seconds) / spread
        fixed = (seconds - each * n) / weight
        mean = seconds / weight
        fixed = max(fixed, 1e-3 * mean)
        return fixed, min(max(each, _MIN_SLOPE * fixed), _MAX_SLOPE * fixed)
