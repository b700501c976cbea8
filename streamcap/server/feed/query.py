"""`read_query`: the options of a subscriber, from a query string."""

from __future__ import annotations

import math
from dataclasses import dataclass

from starlette.datastructures import QueryParams

from streamcap.captions.subscription import SubscribeOptions
from streamcap.errors import InputError

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
# More than any real number of events; few enough for int() to be fast.
_MAX_DIGITS = 18
MAX_INTERVAL = 60.0


@dataclass(frozen=True, slots=True)
class FeedRequest:
    """Options of a subscription and where to resume: `since` as in `Hub.subscribe`."""

    options: SubscribeOptions
    since: dict[str, int] | int | None


def read_query(query: QueryParams, *, stream: str | None = None) -> FeedRequest:
    """The request in `query`: `stream` (repeated or separated by commas; none: all), `since`, `interim`,
    `min_interval`. The argument `stream` overrides that of the query. Raises InputError.
    """
    names = frozenset({stream}) if stream is not None else _names(query)
    options = SubscribeOptions(
        streams=names,
        interim=_flag("interim", query.get("interim"), default=True),
        min_interval=_seconds("min_interval", query.get("min_interval")),
    )
    return FeedRequest(options, _since(query.getlist("since")))


def event_number(text: str, name: str = "since") -> int:
    """`text` as a `seq`: an integer from 0. Raises InputError."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise InputError(f"{name}={text[:40]!r}: use the seq of the last event received, an integer from 0")
    return int(text)


def _names(query: QueryParams) -> frozenset[str] | None:
    names = [name.strip() for value in query.getlist("stream") for name in value.split(",")]
    return frozenset(name for name in names if name) or None


def _since(values: list[str]) -> dict[str, int] | int | None:
    parts = [part.strip() for value in values for part in value.split(",") if part.strip()]
    if not parts:
        return None
    if len(parts) == 1 and ":" not in parts[0]:
        return event_number(parts[0])
    last_seen: dict[str, int] = {}
    for part in parts:
        name, colon, number = part.rpartition(":")
        if not colon or not name:
            raise InputError(f"since={part[:40]!r}: name the stream of each number: since=door:41,yard:12")
        last_seen[name] = event_number(number)
    return last_seen


def _flag(name: str, value: str | None, *, default: bool) -> bool:
    if value is None or value == "":
        return default
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise InputError(f"{name}={value[:40]!r}: use 0 or 1")


def _seconds(name: str, value: str | None) -> float:
    if not value:
        return 0.0
    try:
        seconds = float(value[:40])
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_INTERVAL:
        raise InputError(f"{name}={value[:40]!r}: seconds from 0 to {MAX_INTERVAL:g}")
    return seconds
