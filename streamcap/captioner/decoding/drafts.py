"""Drafts: guesses of a caption's next tokens from earlier captions, which the decoder verifies in one pass.

Prompt lookup decoding (github.com/apoorvumang/prompt-lookup-decoding) over a stream's history: n-grams, no second
model. A guess changes the time of a caption, never its tokens.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from streamcap.errors import InputError

MAX_CONTEXT = 4
"""The longest context (n-gram) of a lookup, in tokens."""
_START = -1
"""Marks the start of a caption in a context."""
_PRIOR_RIGHT, _PRIOR_TRIED = 3.2, 4.0
"""Assumed outcomes before any guess."""
_MEMORY = 0.7
"""Decay of earlier outcomes at each new one."""
_MAX_TRIED = 10.0
"""Upper bound of the weight of earlier outcomes, in guessed tokens, so that a scene change shows quickly."""
_UNUSED_AT_START, _UNUSED = 0.95, 0.98
"""Decay of earlier outcomes when a guess was not used, at a caption's start and later: a source is tried again after
about five captions, or fifteen passes."""
_MAX_PROBABILITY = 0.98


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that may come next, and the length of the context they were found by."""

    tokens: Sequence[int]
    context: int


NO_GUESS = Guess((), 0)


class Acceptance:
    """The probability that a guessed token is right if those before it are, from recent outcomes."""

    def __init__(self, unused: float = _UNUSED) -> None:
        self._unused = unused
        self._right, self._tried = _PRIOR_RIGHT, _PRIOR_TRIED

    @property
    def probability(self) -> float:
        return min(_MAX_PROBABILITY, self._right / self._tried)

    def record(self, proposed: int, accepted: int) -> None:
        """Record that the first `accepted` of `proposed` tokens were right; tokens after a wrong one do not count."""
        right = self._right * _MEMORY + accepted
        tried = self._tried * _MEMORY + accepted + (accepted < proposed)
        scale = min(1.0, _MAX_TRIED / tried)
        self._right, self._tried = right * scale, tried * scale

    def skip(self) -> None:
        """Record that a guess was available but not used."""
        self._right = self._right * self._unused + _PRIOR_RIGHT * (1 - self._unused)
        self._tried = self._tried * self._unused + _PRIOR_TRIED * (1 - self._unused)


class Acceptances:
    """One `Acceptance` for each context length; 0 is a caption's start."""

    def __init__(self) -> None:
        self._by_context = [Acceptance(_UNUSED if count else _UNUSED_AT_START) for count in range(MAX_CONTEXT + 1)]

    def __getitem__(self, context: int) -> Acceptance:
        return self._by_context[context]


@runtime_checkable
class DraftSource(Protocol):
    """Guesses for one caption at a time."""

    acceptances: Acceptances

    def propose(self, tokens: Sequence[int]) -> Guess:
        """A guess of the tokens that follow `tokens`, the beginning of a caption."""


Drafts = Sequence[Sequence[int] | DraftSource | None]
"""For each row a guess of the caption, or None."""


class CaptionIndex:
    """The newest distinct captions, indexed by contexts of up to MAX_CONTEXT tokens."""

    def __init__(self, max_captions: int) -> None:
        self._max_captions = max_captions
        self._captions: OrderedDict[tuple[int, ...], None] = OrderedDict()
        self._next: dict[tuple[int, ...], tuple[tuple[int, ...], int]] = {}

    def __len__(self) -> int:
        return len(self._captions)

    def add(self, tokens: Sequence[int]) -> None:
        """Add a caption as the newest."""
        caption = tuple(tokens)
        if not caption or (self._captions and next(reversed(self._captions)) == caption):
            return
        self._captions[caption] = None
        self._captions.move_to_end(caption)
        for index, context in _contexts(caption):
            self._next[context] = (caption, index)
        if len(self._captions) > self._max_captions:
            oldest, _ = self._captions.popitem(last=False)
            for _, context in _contexts(oldest):
                if self._next.get(context, (None, 0))[0] == oldest:
                    del self._next[context]

    def find(self, context: tuple[int, ...]) -> Sequence[int]:
        """The tokens after the most recent occurrence of `context`."""
        entry = self._next.get(context)
        return () if entry is None else entry[0][entry[1] :]


def _contexts(caption: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """Each index of the caption with each context that ends before it."""
    padded = (_START, *caption)
    return [
        (index, padded[index + 1 - count : index + 1])
        for index in range(len(caption))
        for count in range(1, min(MAX_CONTEXT, index + 1) + 1)
    ]


def _look_up(tokens: Sequence[int], indexes: Sequence[CaptionIndex]) -> Guess:
    """The guess with the longest context; of equally long ones, the first index's."""
    context = (_START, *tokens) if len(tokens) < MAX_CONTEXT else tuple(tokens[-MAX_CONTEXT:])
    for first in range(max(0, len(context) - MAX_CONTEXT), len(context)):
        for index in indexes:
            if following := index.find(context[first:]):
                return Guess(following, len(context) - first if tokens else 0)
    return NO_GUESS


class TokenDraft:
    """One draft from the caller."""

    def __init__(self, tokens: Sequence[int], acceptances: Acceptances) -> None:
        self.acceptances = acceptances
        self._tokens = list(tokens)
        self._index = CaptionIndex(1)
        self._index.add(tokens)

    def propose(self, tokens: Sequence[int]) -> Guess:
        known = len(tokens)
        if known < len(self._tokens) and self._tokens[:known] == tokens:
            return Guess(self._tokens[known:], 0)
        return _look_up(tokens, [self._index])


class StreamDrafts:
    """Guesses from a stream's own history, then from the history of all streams."""

    def __init__(self, max_captions: int, shared: CaptionIndex) -> None:
        self.acceptances = Acceptances()
        self._own, self._shared = CaptionIndex(max_captions), shared

    def propose(self, tokens: Sequence[int]) -> Guess:
        return _look_up(tokens, [self._own, self._shared])

    def add(self, tokens: Sequence[int]) -> None:
        """Add the stream's newest caption."""
        self._own.add(tokens)
        self._shared.add(tokens)


class DraftHistory:
    """The caption history of all streams of one model."""

    def __init__(self, *, max_captions: int = 200, max_streams: int = 1024, max_shared: int = 1000) -> None:
        """max_captions: per stream. max_shared: of all streams together, used when a stream's own history has no match.

        Beyond `max_streams`, the least recently used stream is dropped.
        """
        self._max_captions, self._max_streams = max_captions, max_streams
        self._shared = CaptionIndex(max_shared)
        self._streams: OrderedDict[str, StreamDrafts] = OrderedDict()

    def __len__(self) -> int:
        """The number of streams in the history."""
        return len(self._streams)

    def stream(self, name: str) -> StreamDrafts:
        """The history of the stream called `name`, empty at first."""
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = StreamDrafts(self._max_captions, self._shared)
            if len(self._streams) > self._max_streams:
                self._streams.popitem(last=False)
        self._streams.move_to_end(name)
        return stream


@dataclass(slots=True)
class DraftStatistics:
    """Counters since the start, summed over captions."""

    passes: int = 0
    """GPT-2 passes, counted once for every caption in a pass."""
    tokens: int = 0
    proposed: int = 0
    """Guessed tokens that were verified."""
    accepted: int = 0
    """Guessed tokens that were right."""
    dropped: int = 0
    """Guesses truncated at a token outside the vocabulary."""


def draft_sources(
    drafts: Drafts, rows: int, vocabulary: int, max_length: int, acceptances: Acceptances
) -> list[DraftSource | None]:
    """A caller's drafts as sources, one for each row. Raises InputError that names the row.

    max_length: the tokens that GPT-2 has positions for. acceptances: for drafts given as tokens.
    """
    if not isinstance(drafts, Sequence):
        raise InputError(
            f"drafts: a list with a token list or None for each row is expected, not {type(drafts).__name__}"
        )
    if len(drafts) != rows:
        raise InputError(f"drafts: {len(drafts)} for {rows} rows; give a token list or None for each row")
    sources: list[DraftSource | None] = []
    for row, draft in enumerate(drafts):
        if draft is None or isinstance(draft, DraftSource):
            sources.append(draft)
        else:
            sources.append(TokenDraft(_check_draft(draft, row, vocabulary, max_length), acceptances))
    return sources


def _check_draft(draft: Iterable[int], row: int, vocabulary: int, max_length: int) -> list[int]:
    if isinstance(draft, str | bytes) or not isinstance(draft, Iterable):
        raise InputError(f"drafts, row {row}: a list of token ids or None is expected, not {type(draft).__name__}")
    try:
        tokens = [operator.index(token) for token in draft]
    except TypeError:
        raise InputError(f"drafts, row {row}: token ids are integers") from None
    if len(tokens) > max_length:
        raise InputError(f"drafts, row {row}: {len(tokens)} tokens, GPT-2 has positions for {max_length}")
    invalid = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if invalid is not None:
        raise InputError(f"drafts, row {row}: token {invalid} is not in the vocabulary (0 to {vocabulary - 1})")
    return tokens
