"""File names and messages as one line of a terminal or text file."""

from __future__ import annotations

import unicodedata

_FIRST_BYTE = 0xDC00
# Controls, line and paragraph separators, and undecodable bytes of a file name.
_ESCAPED = frozenset({"Cc", "Zl", "Zp", "Cs"})
# These change the order of the letters that follow.
_OVERRIDES = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def one_line(text: object) -> str:
    """`text` with line breaks, terminal controls and undecodable bytes written as `\\n`, `\\x1b`, `\\xff`."""
    return "".join(_escaped(letter) for letter in str(text))


def _escaped(letter: str) -> str:
    category = unicodedata.category(letter)
    if category not in _ESCAPED and unicodedata.bidirectional(letter) not in _OVERRIDES:
        return letter
    if category == "Cs" and 0x80 <= ord(letter) - _FIRST_BYTE <= 0xFF:
        return f"\\x{ord(letter) - _FIRST_BYTE:02x}"
    return letter.encode("unicode_escape").decode()
