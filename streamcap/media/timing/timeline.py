"""`Timeline`: maps frames of all epochs to the stream's output time, which never goes back."""

from __future__ import annotations


class Timeline:
    """Places epochs one after another by the monotonic clock.

    The first epoch starts at `begin` seconds. A later one (a reconnection, a jump of the clock) starts at its arrival
    time, but never before the last output time.
    """

    def __init__(self, begin: float = 0.0, epoch: int = -1) -> None:
        self._last = begin
        self._offset = 0.0
        self._key: tuple[int, int] | None = None
        self._anchor: tuple[float, float] | None = None  # (monotonic, output time) of the first frame ever
        self.epoch = epoch
        """The newest epoch, counted over all connections of the stream. The first is `epoch` + 1 of the constructor."""

    @property
    def last(self) -> float:
        """The latest output time, in seconds."""
        return self._last

    def place(self, connection_no: int, epoch: int, time: float, arrived: float) -> float:
        """Output seconds of media time `time` in `epoch` of connection `connection_no`; `arrived` is monotonic."""
        if (connection_no, epoch) != self._key:
            self._key = (connection_no, epoch)
            self.epoch += 1
            if self._anchor is None:
                self._anchor = (arrived, self._last)
            begin = max(self._last, self._anchor[1] + arrived - self._anchor[0])
            self._offset = begin - time
        self._last = max(self._last, time + self._offset)
        return self._last
