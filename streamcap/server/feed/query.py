"""What a subscriber asks for, read out of a query string."""

from __future__ import annotations

import math
from dataclasses import dataclass

from starlette.datastructures import QueryParams

from streamcap.captions.hub import SubscribeOptions
from streamcap.errors import InputError

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
# Longer than any number of events or seconds that makes sense, shorter than what int() takes long to read.
_MOST_DIGITS = 18
MAX_INTERVAL = 60.0


@dataclass(frozen=True, slots=True)
class FeedRequest:
    """A wish and where to take up: `since` as `Hub.subscribe` takes it."""

    options: SubscribeOptions
    since: dict[str, int] | int | None


def read_query(query: QueryParams, *, stream: str | None = None) -> FeedRequest:
    """The request in `query`: `stream` (repeated or separated by commas; none: all), `since`, `interim`,
    `min_interval`. With the argument `stream` that one is meant, whatever the query says. Raises InputError.
    """
    names = frozenset({stream}) if stream is not None else _names(query)
    options = SubscribeOptions(
        streams=names,
        interim=_flag("interim", query.get("interim"), default=True),
        min_interval=_seconds("min_interval", query.get("min_interval")),
    )
    return FeedRequest(options, _since(query.getlist("since")))


def event_number(text: str, name: str = "since") -> int:
    """A `seq`: a whole number, 0 or more. Raises InputError."""
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise InputError(f"{name}={text[:40]!r}: the seq of the last event seen, a whole number from 0")
    return int(text)


def _names(query: QueryParams) -> frozenset[str] | None:
    names = [name.strip() for value in query.getlist("stream") for name in value.split(",")]
    return frozenset(name for name in names if name) or None


def _since(values: list[str]) -> dict[str, int] | int | None:
    deps = [part.strip() for value in values for part in value.split(",") if part.strip()]
    if not deps:
        return None
    if len(deps) == 1 and ":" not in deps[0]:
        return event_number(deps[0])
    seen: dict[str, int] = {}
    for part in deps:
        name, colon, number = part.rpartition(":")
        if not colon or not name:
            raise InputError(f"since={part[:40]!r}: of several streams, each needs its name: since=door:41,yard:12")
        seen[name] = event_number(number)
    return seen


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
