"""`Counters`: a stream's next number, id, epoch and time, and the state file that stores them."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from streamcap.captions.caption import Caption
from streamcap.captions.event import Extend, Payload

STATE_VERSION = 1
# A state file has about 100 bytes; streamcap never writes a longer one.
MAX_STATE_BYTES = 4096
MAX_NUMBER = 2**53
MAX_TIME = 1e11
RESERVED_NUMBERS = 1000
RESERVED_SECONDS = 10.0
"""A reservation goes this far beyond the numbers and the time in use, and is renewed when half of it is used. After a
crash the next owner skips the unused rest."""
_FIELDS = ("seq", "caption", "epoch", "time")


class Counters(NamedTuple):
    """Where the next stream of the same name starts, so that no number, id or time is used twice."""

    seq: int = 1
    """The lowest unused sequence number."""
    caption: int = 1
    """The lowest unused number of a caption id."""
    epoch: int = -1
    """The newest epoch."""
    time: float = 0.0
    """Seconds on the stream's timeline; no published caption starts or ends later."""

    def union(self, other: Counters) -> Counters:
        """The maximum of each counter."""
        return Counters(
            max(self.seq, other.seq),
            max(self.caption, other.caption),
            max(self.epoch, other.epoch),
            max(self.time, other.time),
        )

    def covers(self, other: Counters) -> bool:
        """Whether every counter is at least that of `other`."""
        return (
            self.seq >= other.seq
            and self.caption >= other.caption
            and self.epoch >= other.epoch
            and self.time >= other.time
        )

    def ahead(self, numbers: int, seconds: float) -> Counters:
        """These counters, moved forward: a reservation."""
        return Counters(self.seq + numbers, self.caption + numbers, self.epoch, self.time + seconds)

    def reservation(self) -> Counters:
        """What to reserve where these counters are needed."""
        return self.ahead(RESERVED_NUMBERS, RESERVED_SECONDS)

    def is_low(self, needed: Counters) -> bool:
        """Whether this reservation must be renewed."""
        return not self.covers(needed.ahead(RESERVED_NUMBERS // 2, RESERVED_SECONDS / 2))

    def after(self, payload: Payload) -> Counters:
        """The counters after `payload` is published under the next number."""
        match payload:
            case Caption():
                used = Counters(self.seq + 1, caption_number(payload.id) + 1, payload.epoch, payload.end)
            case Extend():
                used = Counters(self.seq + 1, caption_number(payload.id) + 1, -1, payload.end)
            case _:
                used = Counters(self.seq + 1)
        return self.union(used)


def caption_number(id_: str) -> int:
    """N of the id `NAME-N`; 0 where it has none."""
    number = id_.rpartition("-")[2]
    return int(number) if number.isascii() and number.isdecimal() and len(number) <= 16 else 0


def format_counters(stream: str, counters: Counters) -> str:
    """The text of the state file of `stream`."""
    return json.dumps({"version": STATE_VERSION, "stream": stream, **counters._asdict()}) + "\n"


def parse_counters(data: bytes, stream: str) -> Counters:
    """The inverse. Raises ValueError, with one line for the log, for text that `format_counters` did not write."""
    if len(data) > MAX_STATE_BYTES:
        raise ValueError(f"it has more than {MAX_STATE_BYTES} bytes")
    try:
        state: Any = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(state, dict) or state.get("version") != STATE_VERSION or state.get("stream") != stream:
        raise ValueError(f"it does not belong to stream {stream}, version {STATE_VERSION}")
    return check_counters(*_values(state))


def check_counters(seq: Any, caption: Any, epoch: Any, time: Any) -> Counters:
    """The counters with these values, which came from outside. Raises ValueError."""
    for number, minimum in ((seq, 1), (caption, 1), (epoch, -1)):
        # A bool is an int too.
        if type(number) is not int or not minimum <= number <= MAX_NUMBER:
            raise ValueError(f"seq, caption and epoch must be integers up to {MAX_NUMBER}")
    if type(time) not in (int, float) or not 0 <= time <= MAX_TIME:  # false for NaN as well
        raise ValueError(f"time must be seconds, from 0 to {MAX_TIME:g}")
    return Counters(seq, caption, epoch, float(time))


def _values(state: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(state.get(key) for key in _FIELDS)
