"""WebVTT (`.vtt`), https://www.w3.org/TR/webvtt1/."""

from __future__ import annotations

from collections.abc import Iterable

from streamcap.captions.cue import Cue, wrap_lines

HEADER = "WEBVTT\n\n"


def timestamp(ms: int) -> str:
    """`HH:MM:SS.mmm`; hours grow past two digits and never wrap."""
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}.{ms:03d}"


def escape(text: str) -> str:
    """Cue text: `&`, `<` and `>` as references, so that neither a tag nor `-->` can appear."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def render(cues: Iterable[Cue], header: str = HEADER) -> str:
    """The whole file; `header` ends with a blank line."""
    return header + "".join(
        f"{timestamp(cue.start_ms)} --> {timestamp(cue.end_ms)}\n"
        + "\n".join(escape(line) for line in wrap_lines(cue.text))
        + "\n\n"
        for cue in cues
    )
