"""SubRip (`.srt`)."""

from __future__ import annotations

from collections.abc import Iterable

from streamcap.captions.cue import Cue, wrap_lines


def timestamp(ms: int) -> str:
    """`HH:MM:SS,mmm`; hours grow past two digits and never wrap."""
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d},{ms:03d}"


def render(cues: Iterable[Cue]) -> str:
    """The complete file. Empty without cues: SubRip has no header."""
    # `-->` inside a text would read as a time line to some players, an empty line as the end of the cue.
    return "".join(
        f"{number}\n{timestamp(cue.start_ms)} --> {timestamp(cue.end_ms)}\n"
        + ("\n".join(line.replace("-->", "→") for line in wrap_lines(cue.text)) or " ")
        + "\n\n"
        for number, cue in enumerate(cues, 1)
    )
