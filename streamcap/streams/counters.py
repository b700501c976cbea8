"""`Counters`: where a stream's numbers, ids, epochs and time go on, and the text of the state file that keeps them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from streamcap.captions.caption import Caption
from streamcap.captions.event import Extend, Payload

STATE_VERSION = 1
# A state file has about 100 bytes. What is longer is none of ours.
MAX_STATE_BYTES = 4096
MAX_NUMBER = 2**53
MAX_TIME = 1e11


@dataclass(frozen=True, slots=True)
class Counters:
    """What a later stream of the same name begins with, so that it repeats nothing that anyone has seen."""

    seq: int = 1
    """The lowest sequence number that was not used."""
    caption: int = 1
    """The lowest number of a caption's id that was not used."""
    epoch: int = -1
    """The newest epoch."""
    time: float = 0.0
    """Seconds on the stream's timeline: no caption was shown to begin or to end later."""

    def union(self, other: Counters) -> Counters:
        """The higher of each."""
        return Counters(
            max(self.seq, other.seq),
            max(self.caption, other.caption),
            max(self.epoch, other.epoch),
            max(self.time, other.time),
        )

    def covers(self, other: Counters) -> bool:
        """Whether a stream that begins with this repeats nothing of one that got as far as `other`."""
        return self.union(other) == self

    def ahead(self, counters: int, seconds: float) -> Counters:
        """A reservation beyond this."""
        return Counters(self.seq + counters, self.caption + counters, self.epoch, self.time + seconds)

    def after(self, payload: Payload) -> Counters:
        """Once `payload` is published under the next number."""
        match payload:
            case Caption():
                shown = Counters(self.seq + 1, caption_number(payload.id) + 1, payload.epoch, payload.end)
            case Extend():
                shown = Counters(self.seq + 1, caption_number(payload.id) + 1, -1, payload.end)
            case _:
                shown = Counters(self.seq + 1)
        return self.union(shown)


def caption_number(id_: str) -> int:
    """N of the id `NAME-N`; 0 where it has none."""
    number = id_.rpartition("-")[2]
    return int(number) if number.isascii() and number.isdecimal() and len(number) <= 16 else 0


def format_counters(stream: str, counters: Counters) -> str:
    """The text of the state file of `stream`."""
    return json.dumps({"version": STATE_VERSION, "stream": stream, **asdict(counters)}) + "\n"


def parse_counters(data: bytes, stream: str) -> Counters:
    """The inverse. Raises ValueError, with one line for the log, for what `format_counters` cannot have made."""
    if len(data) > MAX_STATE_BYTES:
        raise ValueError(f"it has more than {MAX_STATE_BYTES} bytes")
    try:
        state: Any = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(state, dict) or state.get("version") != STATE_VERSION or state.get("stream") != stream:
        raise ValueError(f"it is not of stream {stream}, version {STATE_VERSION}")
    seq, caption, epoch, time = _values(state)
    for number, least in ((seq, 1), (caption, 1), (epoch, -1)):
        # A bool is an int too.
        if type(number) is not int or not least <= number <= MAX_NUMBER:
            raise ValueError(f"seq, caption and epoch must be whole numbers up to {MAX_NUMBER}")
    if type(time) not in (int, float) or not 0 <= time <= MAX_TIME:  # false for NaN as well
        raise ValueError(f"time must be seconds, from 0 to {MAX_TIME:g}")
    return Counters(seq, caption, epoch, float(time))


def _values(state: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(state.get(key) for key in ("seq", "caption", "epoch", "time"))
