"""WebVTT (`.vtt`), https://www.w3.org/TR/webvtt1/."""

from __future__ import annotations

import re
from collections.abc import Iterable

from streamcap.captions.cue import Cue, wrap_lines

HEADER = "WEBVTT\n\n"
# Six digits of hours cover a century.
_TIMES = re.compile(
    r"^([0-9]{2,6}):([0-5][0-9]):([0-5][0-9])\.([0-9]{3}) --> ([0-9]{2,6}):([0-5][0-9]):([0-5][0-9])\.([0-9]{3})$",
    re.MULTILINE,
)


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
    """The complete file; `header` ends with a blank line."""
    return header + "".join(
        f"{timestamp(cue.start_ms)} --> {timestamp(cue.end_ms)}\n"
        + "\n".join(escape(line) for line in wrap_lines(cue.text))
        + "\n\n"
        for cue in cues
    )


def parse_times(text: str) -> list[tuple[int, int]]:
    """Start and end, in ms, of every cue that `render` wrote into `text`, in order.

    Skips time lines of another form, cues that do not end after they start, and cues out of order.
    """
    times: list[tuple[int, int]] = []
    for fields in _TIMES.findall(text):
        start, end = _ms(*fields[:4]), _ms(*fields[4:])
        if end > start and (not times or start >= times[-1][0]):
            times.append((start, end))
    return times


def _ms(hours: str, minutes: str, seconds: str, ms: str) -> int:
    return 3_600_000 * int(hours) + 60_000 * int(minutes) + 1000 * int(seconds) + int(ms)
