"""`CaptionSlot`: a queue of one caption, for outputs that accept captions slowly."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace

# CEA-608 has rows of 32 characters; players show four of at most fifteen rows.
COLUMNS, ROWS = 32, 4


@dataclass(frozen=True, slots=True)
class Line:
    """Text of a final, valid until `until` (slot clock) unless the feed extends it."""

    id: str
    text: str
    until: float


@dataclass(slots=True)
class SlotStatistics:
    sent: int = 0
    replaced: int = 0
    """Dropped for a newer one before they were sent."""
    stale: int = 0
    """Dropped because they were not confirmed in time."""


class CaptionSlot:
    """Keeps the newest caption only. At most one line per `every` seconds; lines not confirmed for `hold` seconds are
    dropped.

    Parameters:
        every: minimum seconds between two lines.
        hold: seconds a line stays valid after `put` or `extend`.
        clock: seconds, monotonic.
    """

    def __init__(self, every: float, hold: float, clock: Callable[[], float]) -> None:
        self.statistics = SlotStatistics()
        self._every, self._hold, self._clock = every, hold, clock
        self._line: Line | None = None
        self._next = clock()

    def put(self, id: str, text: str) -> None:  # noqa: A002 - as in the feed
        """Add a new final; a waiting one is dropped."""
        self.statistics.replaced += self._line is not None
        self._line = Line(id, fitted(text), self._clock() + self._hold)

    def extend(self, id: str) -> None:  # noqa: A002
        """The feed confirmed final `id`."""
        if self._line is not None and self._line.id == id:
            self._line = replace(self._line, until=self._clock() + self._hold)

    def pause(self) -> float:
        """Seconds until the next line may be taken."""
        return max(0.0, self._next - self._clock())

    def take(self) -> Line | None:
        """The waiting line, if it is still valid; the next one is due in `every` seconds."""
        line, self._line = self._line, None
        if line is not None and line.until <= self._clock():
            self.statistics.stale += 1
            return None
        if line is not None:
            self._next = self._clock() + self._every
        return line

    def give_back(self, line: Line) -> None:
        """Put back a line that was not delivered, unless a newer one waits."""
        if self._line is None:
            self._line = line
        else:
            self.statistics.replaced += 1


def fitted(text: str) -> str:
    """`text` as one line, cut after the last word that fits into ROWS rows of COLUMNS characters."""
    # Words are never cut. The rows are joined again, because the player wraps the text itself.
    rows = textwrap.wrap(" ".join(text.split()), COLUMNS, break_long_words=False, break_on_hyphens=False)
    return " ".join(rows[:ROWS])
