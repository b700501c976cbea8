"""`RequestedSample`: a sample that another machine asks this engine to caption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from streamcap.engine.change_gate import GateMemory
from streamcap.engine.outcome import Outcome
from streamcap.media.frame import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedSample(Sample):
    """`stream` names the requester too, so that two machines with one stream do not meet."""

    memory: GateMemory | None
    """The stream's last final, which the gate compares with. The engine changes it."""
    answer: Callable[[Outcome, GateMemory | None], None]
    """Takes each outcome, and with all but interims the stream's last final from now on. Called on the device thread;
    must not block."""
