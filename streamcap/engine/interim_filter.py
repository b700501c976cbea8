"""`InterimFilter`: which interim texts of one caption are shown."""

from __future__ import annotations


class InterimFilter:
    """Rate-limited, and only where the text differs from the last final. Pure.

    Parameters:
        last_text: the last final's text; None: no interim texts.
        interval: minimum seconds between two texts; 0 or less: no interim texts.
        begin: monotonic seconds from which on texts may be shown.
    """

    def __init__(self, last_text: str | None, *, interval: float, begin: float) -> None:
        self.shown = False
        """Whether a text was accepted."""
        self.enabled = last_text is not None and interval > 0
        self._last_text = last_text or ""
        self._interval = interval
        self._next_at = begin

    def is_due(self, now: float) -> bool:
        """Whether a text may be shown at `now`."""
        return self.enabled and now >= self._next_at

    def accept(self, text: str, now: float) -> bool:
        """Whether to show `text` at `now`, at which a text is due."""
        # It may still become the same text as the last final.
        if not text or self._last_text.startswith(text):
            return False
        self._next_at = now + self._interval
        self.shown = True
        return True
