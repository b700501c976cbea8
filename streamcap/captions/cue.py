"""`Cue`: a caption as a subtitle: integer milliseconds, lines that fit a screen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from unicodedata import category, east_asian_width

from streamcap.captions.text import clean_text

MAX_LINE_CHARS = 42
MAX_LINES = 2
_ARTICLES = frozenset({"a", "an", "the"})
# Chinese and Japanese have no spaces: a line may end between two of their characters, but these begin none (kinsoku).
_HAN_KANA = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_NOT_FIRST = "ぁぃぅぇぉっゃゅょゎゕゖァィゥェォッャュョヮヵヶー・ゝゞヽヾ\u3099-\u309c\u31f0-\u31ff"
# A zero-width space separates words of Khmer, Thai, Lao and Burmese.
_BREAK = re.compile(f"( |\u200b+|(?<=[{_HAN_KANA}、。，！？：；）」』】])(?=[{_HAN_KANA}])(?![{_NOT_FIRST}]))")
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


def text_width(text: str) -> int:
    """Columns of `text` on a screen: 2 for a wide character (Chinese, emoji), 0 for a mark on another, else 1."""
    if text.isascii():
        return len(text)
    return sum(
        0 if category(char) in ("Mn", "Me", "Cf") else 2 if east_asian_width(char) in ("W", "F") else 1 for char in text
    )


@lru_cache(maxsize=WRAP_CACHE_SIZE)
def wrap_lines(text: str, width: int = MAX_LINE_CHARS, max_lines: int = MAX_LINES) -> tuple[str, ...]:
    """Break `text` between words into at most `max_lines` even lines of about `width` columns (`text_width`).

    A line does not end in an article where another break fits (Netflix, timed text style guide). A text that is too
    long gets wider lines: no word is lost or cut. The text is cleaned first (`clean_text`). Linear time.
    """
    text = " ".join(clean_text(text).split())
    if max_lines < 2 or text_width(text) <= width:
        return (text,)
    words = _Words(text)
    lines: list[str] = []
    first = 0  # the first word of the next line
    for count in range(min(max_lines, -(-words.ends[-1] // width)), 1, -1):
        if first >= len(words) - 1:
            break
        last = words.last_of_line(first, count, width)
        lines.append(words.joined(first, last))
        first = last + 1
    return (*lines, words.joined(first, len(words) - 1))


class _Words:
    """A text at all places where a line may end.

    ends[i]: columns of the first i + 1 words and what is between them.
    """

    def __init__(self, text: str) -> None:
        # Words and what is between them, in turn: a space, zero-width spaces, or nothing.
        self._parts = _BREAK.split(text)
        self._words = self._parts[::2]
        self.ends: list[int] = []
        self._begins: list[int] = []
        at = 0
        for word, space in zip(self._words, [*self._parts[1::2], ""], strict=True):
            self._begins.append(at)
            self.ends.append(at + text_width(word))
            at = self.ends[-1] + len(space.replace("\u200b", ""))

    def __len__(self) -> int:
        return len(self._words)

    def joined(self, first: int, last: int) -> str:
        return "".join(self._parts[2 * first : 2 * last + 1])

    def last_of_line(self, first: int, count: int, width: int) -> int:
        """Index of the last word of a line that starts with word `first`, where `count` lines are left."""
        begin, end = self._begins[first], self.ends[-1]
        target = begin + (end - begin) / count

        def cost(index: int) -> tuple[bool, bool, float]:
            fits = self.ends[index] - begin <= width and end - self._begins[index + 1] <= (count - 1) * width
            return not fits, self._words[index].lower() in _ARTICLES, abs(self.ends[index] - target)

        return min(range(first, len(self) - 1), key=cost)
