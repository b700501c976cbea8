"""`clean_text`: makes the text of a caption valid in every output format."""

from __future__ import annotations

import re

MAX_TEXT_CHARACTERS = 4000
"""About 700 words; a caption is one sentence."""

# Control characters other than white space, and bidirectional embeddings, overrides and isolates.
_REMOVED = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean_text(text: str) -> str:
    """`text` on one line with single spaces, at most MAX_TEXT_CHARACTERS.

    Control characters and bidirectional overrides are removed. A lone surrogate, which UTF-8 cannot encode, becomes
    U+FFFD. The joiners of emoji and of Arabic or Indic letters stay. Idempotent.
    """
    if not text.isprintable():
        text = _SURROGATE.sub("\ufffd", _REMOVED.sub("", text))
    text = " ".join(text.split())
    if len(text) <= MAX_TEXT_CHARACTERS:
        return text
    return text[: MAX_TEXT_CHARACTERS - 1].rstrip() + "…"
