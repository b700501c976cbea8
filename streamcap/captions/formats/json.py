"""JSON as VideoCaptionerWithClip's scripts wrote it: an array of `start`, `end`, `lang` and `text`."""

from __future__ import annotations

import json
from collections.abc import Iterable

from streamcap.captions.cue import Cue
from streamcap.captions.formats.srt import timestamp
from streamcap.captions.text import clean_text


def entries(cues: Iterable[Cue], lang: str = "en") -> list[dict[str, str]]:
    """One object for each cue; times as SubRip writes them, `HH:MM:SS,mmm`; `lang` a language tag (BCP 47)."""
    return [
        {"start": timestamp(cue.start_ms), "end": timestamp(cue.end_ms), "lang": lang, "text": clean_text(cue.text)}
        for cue in cues
    ]


def render(cues: Iterable[Cue], lang: str = "en") -> str:
    """The complete file."""
    return json.dumps(entries(cues, lang), indent=4, ensure_ascii=False) + "\n"
