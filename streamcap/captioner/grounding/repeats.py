"""`without_repeats`: on an image it does not know a small decoder falls into loops; a phrase is then said once."""

from __future__ import annotations

import re

_PHRASE = r"\b(\w+(?: \w+){0,7})"
_AT_ONCE = re.compile(rf"{_PHRASE}(?: \1\b)+")
# Two may be meant: "a boy and a boy".
_LISTED = re.compile(rf"{_PHRASE}(?: and \1\b){{2,}}")


def without_repeats(caption: str) -> str:
    """`caption` without the repeats of a phrase of up to eight words that follows itself, or is listed three times:
    "a room with a white wall and a white wall and a white wall" becomes "a room with a white wall"."""
    while (shorter := _AT_ONCE.sub(r"\1", _LISTED.sub(r"\1", caption))) != caption:
        caption = shorter
    return caption
