"""`StreamStatus`: the state of one stream, and its reasons, as in the status event."""

from __future__ import annotations

import logging

from streamcap.captions.event import StreamState

log = logging.getLogger(__name__)


class StreamStatus:
    """Joins the reasons of the source, the model, the disk and the load into one. Set them, then call `update`."""

    def __init__(self, name: str) -> None:
        self.state = StreamState.CONNECTING
        self.reason = ""
        self.source = ""
        self.model = ""
        self.disk = ""
        self.load = ""
        self._name = name
        self._logged: tuple[StreamState, str] | None = None

    def update(self, state: StreamState) -> bool:
        """Take `state` and the present reasons. Returns whether the status event has changed."""
        before = self.state, self.reason
        self.state, self.reason = state, _joined(self.source, self.model, self.disk, self.load)
        return (self.state, self.reason) != before

    def log(self) -> None:
        """Once for each change. The load of the service is one line for all streams, elsewhere."""
        reason = _joined(self.source, self.model, self.disk)
        if (self.state, reason) == self._logged:
            return
        self._logged = self.state, reason
        failing = self.state in (StreamState.STALLED, StreamState.RECONNECTING, StreamState.FAILED)
        level = logging.WARNING if failing or self.disk else logging.INFO
        text = f": {reason}" if reason else ""
        log.log(level, "stream %s is %s%s", self._name, self.state.value, text, extra={"stream": self._name})


def _joined(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))
