"""`Cue`: a caption as a subtitle: integer milliseconds, lines that fit a screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from streamcap.captions.text import clean_text

MAX_LINE_CHARS = 42
MAX_LINES = 2
_ARTICLES = frozenset({"a", "an", "the"})
# A shorter cue cannot be read; a shorter gap flickers.
MIN_CUE_MS = 1000
MIN_GAP_MS = 500
# Cached texts: rolling files are rewritten often, in two formats. Four full windows.
WRAP_CACHE_SIZE = 16_384


@dataclass(frozen=True, slots=True)
class Cue:
    """A text on screen from `start_ms` until before `end_ms`. Raises ValueError unless end > start."""

    start_ms: int
    end_ms: int
    text: str

    def __post_init__(self) -> None:
        if self.end_ms <= self.start_ms:
            raise ValueError(f"a cue must end after it starts: {self.start_ms} to {self.end_ms} ms")


def to_ms(seconds: float) -> int:
    """Seconds to integer milliseconds; all formats use this one rounding."""
    return max(0, round(seconds * 1000))


def merge_cues(cues: Iterable[Cue]) -> Iterator[Cue]:
    """Join equal neighbors, close gaps up to MIN_GAP_MS, extend short cues to MIN_CUE_MS, and leave out empty ones.

    A cue ends when the next one starts, so cues do not overlap. This may make a cue shorter than MIN_CUE_MS: showing
    what is no longer there would be worse.
    """
    previous: Cue | None = None
    for cue in cues:
        if previous is None:
            previous = cue
            continue
        gap = cue.start_ms - previous.end_ms
        if cue.text == previous.text and gap <= MIN_GAP_MS:
            previous = Cue(previous.start_ms, max(previous.end_ms, cue.end_ms), previous.text)
            continue
        end = cue.start_ms if gap <= MIN_GAP_MS else _readable_end(previous, cue.start_ms)
        if end > previous.start_ms and previous.text:
            yield Cue(previous.start_ms, end, previous.text)
        previous = cue
    if previous is not None and previous.text:
        yield Cue(previous.start_ms, _readable_end(previous, None), previous.text)


def _readable_end(cue: Cue, limit_ms: int | None) -> int:
    end = max(cue.end_ms, cue.start_ms + MIN_CUE_MS)
    return end if limit_ms is None else min(end, limit_ms)


@lru_cache(maxsize=WRAP_CACHE_SIZE)
def wrap_lines(text: str, width: int = MAX_LINE_CHARS, max_lines: int = MAX_LINES) -> tuple[str, ...]:
    """Break `text` between words into at most `max_lines` even lines of about `width` characters.

    A line does not end in an article where another break fits (Netflix, timed text style guide). A text that is too
    long gets wider lines: no word is lost or cut. The text is cleaned first (`clean_text`). Linear time.
    """
    words = clean_text(text).split()
    if len(words) < 2 or max_lines < 2:
        return (" ".join(words),)
    # ends[i]: characters of the first i + 1 words and the spaces between them.
    ends = [end - 1 for end in accumulate(len(word) + 1 for word in words)]
    if ends[-1] <= width:
        return (" ".join(words),)
    lines: list[str] = []
    first = 0  # the first word of the next line
    for count in range(min(max_lines, -(-ends[-1] // width)), 1, -1):
        if first >= len(words) - 1:
            break
        last = _last_word(words, ends, first, count, width)
        lines.append(" ".join(words[first : last + 1]))
        first = last + 1
    return (*lines, " ".join(words[first:]))


def _last_word(words: list[str], ends: list[int], first: int, count: int, width: int) -> int:
    """Index of the last word of a line that starts with word `first`, where `count` lines are left."""
    begin = ends[first - 1] + 1 if first else 0
    target = begin + (ends[-1] - begin) / count

    def cost(index: int) -> tuple[bool, bool, float]:
        fits = ends[index] - begin <= width and ends[-1] - ends[index] - 1 <= (count - 1) * width
        return not fits, words[index].lower() in _ARTICLES, abs(ends[index] - target)

    return min(range(first, len(words) - 1), key=cost)
