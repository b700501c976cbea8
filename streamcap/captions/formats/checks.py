"""Checks of values from files, which are untrusted input. All raise ValueError with the reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

MAX_LINE_BYTES = 65_536
"""Limit of one JSON document: enough for the longest caption with every character escaped."""
MAX_SEQ = 10**15
"""Limit of sequence numbers and id numbers: far below 2**53, the largest exact integer of JavaScript."""
MAX_SECONDS = 1e9
"""Limit of a stream's timeline: 31 years."""
MAX_EPOCH = 10**9


def read_json(data: bytes) -> dict[str, Any]:
    """The JSON object in `data`: UTF-8, at most MAX_LINE_BYTES, without NaN and Infinity."""
    if len(data) > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        message = json.loads(data.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message


def read_int(message: Mapping[str, Any], key: str, low: int, high: int) -> int:
    """The integer `key`, from `low` to `high`."""
    value = _value(message, key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key} is not an integer")
    if not low <= value <= high:
        raise ValueError(f"{key} is not from {low} to {high}")
    return value


def read_number(message: Mapping[str, Any], key: str, low: float, high: float) -> float:
    """The finite number `key`, from `low` to `high`."""
    value = _value(message, key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{key} is not a number")
    if not low <= value <= high:  # false for NaN, too
        raise ValueError(f"{key} is not from {low:g} to {high:g}")
    return float(value)


def read_text(message: Mapping[str, Any], key: str, max_characters: int) -> str:
    """The text `key`: at most `max_characters`, no lone surrogates."""
    value = _value(message, key)
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a text")
    if len(value) > max_characters:
        raise ValueError(f"{key} is longer than {max_characters} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{key} contains a lone surrogate") from None
    return value


def read_object(message: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object `key`."""
    value = _value(message, key)
    if not isinstance(value, dict):
        raise ValueError(f"{key} is not an object")
    return value


def read_utc(message: Mapping[str, Any], key: str) -> float:
    """The time `key` (RFC 3339, with its offset from UTC), in seconds since 1970."""
    text = read_text(message, key, 40)
    try:
        time = datetime.fromisoformat(text)
        seconds = time.timestamp() if time.tzinfo is not None else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < 4e9:
        raise ValueError(f"{key} is not a time such as 2026-11-20T23:46:01.120Z")
    return seconds


def _value(message: Mapping[str, Any], key: str) -> Any:
    try:
        return message[key]
    except KeyError:
        raise ValueError(f"{key} is missing") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
