"""`CaptionSlot`: the one caption that waits for its turn, for an outlet that takes few of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace

# CEA-608 has rows of 32 characters; four are what players show of the fifteen that there could be.
COLUMNS, ROWS = 32, 4


@dataclass(frozen=True, slots=True)
class Line:
    """A final's text, true until `until` by the slot's clock unless the feed extends it."""

    id: str
    text: str
    until: float


@dataclass(slots=True)
class SlotStatistics:
    sent: int = 0
    replaced: int = 0
    """Dropped for a newer one before their turn."""
    stale: int = 0
    """Dropped because nothing said any more that they were true."""


class CaptionSlot:
    """Newest wins; one line every `every` seconds; what nothing has borne out for `hold` seconds is not sent.

    Parameters:
        every: seconds between two lines that are taken.
        hold: seconds a line stays true after it was put or extended.
        clock: seconds, monotonic.
    """

    def __init__(self, every: float, hold: float, clock: Callable[[], float]) -> None:
        self.statistics = SlotStatistics()
        self._every, self._hold, self._clock = every, hold, clock
        self._line: Line | None = None
        self._next = clock()

    def put(self, id: str, text: str) -> None:  # noqa: A002 - the feed's own word
        """A new final; one that still waits is dropped."""
        self.statistics.replaced += self._line is not None
        self._line = Line(id, fitted(text), self._clock() + self._hold)

    def extend(self, id: str) -> None:  # noqa: A002
        """The feed says that final `id` is still true."""
        if self._line is not None and self._line.id == id:
            self._line = replace(self._line, until=self._clock() + self._hold)

    def pause(self) -> float:
        """Seconds until the next line may be taken."""
        return max(0.0, self._next - self._clock())

    def take(self) -> Line | None:
        """What waits, if it is still true; the next turn is `every` seconds from now."""
        line, self._line = self._line, None
        if line is not None and line.until <= self._clock():
            self.statistics.stale += 1
            return None
        if line is not None:
            self._next = self._clock() + self._every
        return line

    def give_back(self, line: Line) -> None:
        """It was not delivered: it waits again, unless a newer one does."""
        if self._line is None:
            self._line = line
        else:
            self.statistics.replaced += 1


def fitted(text: str) -> str:
    """`text` in one line, cut after the last word that fits ROWS rows of COLUMNS characters."""
    # A word is never cut: rows are put together again, and the player breaks them anew.
    rows = textwrap.wrap(" ".join(text.split()), COLUMNS, break_long_words=False, break_on_hyphens=False)
    return " ".join(rows[:ROWS])
