"""`Timeline`: where a frame of any epoch lies on the stream's one output clock, which never goes back."""

from __future__ import annotations


class Timeline:
    """Lays epochs end to end on the service's own clock.

    The first epoch begins at `begin` seconds. A later one (a reconnection, a clock that jumped) begins where the
    monotonic clock says it came, but never before the last time given out.
    """

    def __init__(self, begin: float = 0.0, epoch: int = -1) -> None:
        self._last = begin
        self._offset = 0.0
        self._key: tuple[int, int] | None = None
        self._anchor: tuple[float, float] | None = None  # (monotonic, output time) of the first frame ever
        self.epoch = epoch
        """The newest epoch: the stream's own count, over all openings of its source; `epoch` + 1 is the first."""

    @property
    def last(self) -> float:
        """The latest output time given out, seconds."""
        return self._last

    def place(self, opening: int, epoch: int, time: float, arrived: float) -> float:
        """Output seconds of media time `time` in the source's `epoch` of its `opening`; `arrived` is monotonic."""
        if (opening, epoch) != self._key:
            self._key = (opening, epoch)
            self.epoch += 1
            if self._anchor is None:
                self._anchor = (arrived, self._last)
            begin = max(self._last, self._anchor[1] + arrived - self._anchor[0])
            self._offset = begin - time
        self._last = max(self._last, time + self._offset)
        return self._last
