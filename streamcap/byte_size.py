"""`parse_bytes`: sizes as people write them."""

from __future__ import annotations

import re

from streamcap.errors import InputError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE = re.compile(r"(?P<number>\d{1,15}(?:\.\d{1,6})?)\s*(?P<unit>[kmgt]?)b?", re.IGNORECASE | re.ASCII)


def parse_bytes(text: str | int, where: str) -> int:
    """Bytes of `20GB`, `500 MB`, `1.5g` or a plain number; units are decimal. where: names the option in the error.

    Raises InputError.
    """
    match = _SIZE.fullmatch(str(text).strip())
    if match is None:
        raise InputError(f"{where} {str(text)[:40]!r}: a number of bytes, or such as 500MB or 20GB")
    return round(float(match["number"]) * _UNITS[match["unit"].lower()])
