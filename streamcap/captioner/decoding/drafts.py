"""Guesses at a caption's next tokens, out of earlier captions, for the decoder to verify in one pass.

Prompt lookup (github.com/apoorvumang/prompt-lookup-decoding) over a stream's past: n-grams, no second model. A guess
changes the time a caption takes, never its tokens.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from streamcap.errors import InputError

MAX_CONTEXT = 4
"""The most tokens that a guess is looked up by."""
_START = -1
"""Stands before a caption's first token."""
_PRIOR_RIGHT, _PRIOR_TRIED = 3.2, 4.0
"""What is assumed of guesses that nothing is known of yet."""
_MEMORY = 0.7
"""Weight that earlier outcomes keep when a new one comes."""
_MAX_TRIED = 10.0
"""Guessed tokens, by weight, that earlier outcomes count at most: a scene that changes is soon noticed."""
_UNUSED_AT_START, _UNUSED = 0.95, 0.98
"""Weight that they keep where no guess was made, at a caption's start and later: a source is tried again after about
five captions, or fifteen passes."""
_MAX_PROBABILITY = 0.98


@dataclass(frozen=True, slots=True)
class Guess:
    """Tokens that may come next, and how many tokens they were looked up by."""

    tokens: Sequence[int]
    context: int


NO_GUESS = Guess((), 0)


class Acceptance:
    """The probability that a guessed token is right, given that those before it were: from recent outcomes."""

    def __init__(self, unused: float = _UNUSED) -> None:
        self._unused = unused
        self._right, self._tried = _PRIOR_RIGHT, _PRIOR_TRIED

    @property
    def probability(self) -> float:
        return min(_MAX_PROBABILITY, self._right / self._tried)

    def record(self, proposed: int, accepted: int) -> None:
        """Of `proposed` tokens the first `accepted` were right; what follows a wrong one says nothing."""
        right = self._right * _MEMORY + accepted
        tried = self._tried * _MEMORY + accepted + (accepted < proposed)
        scale = min(1.0, _MAX_TRIED / tried)
        self._right, self._tried = right * scale, tried * scale

    def skip(self) -> None:
        """A guess was at hand and not used."""
        self._right = self._right * self._unused + _PRIOR_RIGHT * (1 - self._unused)
        self._tried = self._tried * self._unused + _PRIOR_TRIED * (1 - self._unused)


class Acceptances:
    """One `Acceptance` for each length of context; 0 is a caption's start."""

    def __init__(self) -> None:
        self._by_context = [Acceptance(_UNUSED if count else _UNUSED_AT_START) for count in range(MAX_CONTEXT + 1)]

    def __getitem__(self, context: int) -> Acceptance:
        return self._by_context[context]


@runtime_checkable
class DraftSource(Protocol):
    """Guesses for one caption at a time."""

    acceptances: Acceptances

    def propose(self, tokens: Sequence[int]) -> Guess:
        """What may follow `tokens`, a caption's beginning, as far as is known."""


Drafts = Sequence[Sequence[int] | DraftSource | None]
"""For each row what the caption may well be."""


class CaptionIndex:
    """The newest distinct captions, found by up to MAX_CONTEXT tokens."""

    def __init__(self, max_captions: int) -> None:
        self._max_captions = max_captions
        self._captions: OrderedDict[tuple[int, ...], None] = OrderedDict()
        self._next: dict[tuple[int, ...], tuple[tuple[int, ...], int]] = {}

    def __len__(self) -> int:
        return len(self._captions)

    def add(self, tokens: Sequence[int]) -> None:
        """A caption, which is now the newest."""
        caption = tuple(tokens)
        if not caption or (self._captions and next(reversed(self._captions)) == caption):
            return
        self._captions[caption] = None
        self._captions.move_to_end(caption)
        for place, context in _contexts(caption):
            self._next[context] = (caption, place)
        if len(self._captions) > self._max_captions:
            oldest, _ = self._captions.popitem(last=False)
            for _, context in _contexts(oldest):
                if self._next.get(context, (None, 0))[0] == oldest:
                    del self._next[context]

    def find(self, context: tuple[int, ...]) -> Sequence[int]:
        """What followed `context` when it came last."""
        found = self._next.get(context)
        return () if found is None else found[0][found[1] :]


def _contexts(caption: tuple[int, ...]) -> list[tuple[int, tuple[int, ...]]]:
    """Each place in the caption with each context that ends before it."""
    whole = (_START, *caption)
    return [
        (place, whole[place + 1 - count : place + 1])
        for place in range(len(caption))
        for count in range(1, min(MAX_CONTEXT, place + 1) + 1)
    ]


def _look_up(tokens: Sequence[int], indexes: Sequence[CaptionIndex]) -> Guess:
    """The guess with the longest context; of equally long ones that of the first index."""
    context = (_START, *tokens) if len(tokens) < MAX_CONTEXT else tuple(tokens[-MAX_CONTEXT:])
    for first in range(max(0, len(context) - MAX_CONTEXT), len(context)):
        for index in indexes:
            if found := index.find(context[first:]):
                return Guess(found, len(context) - first if tokens else 0)
    return NO_GUESS


class TokenDraft:
    """One draft, given by the caller."""

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
    """A stream's own past first, then that of all streams."""

    def __init__(self, max_captions: int, shared: CaptionIndex) -> None:
        self.acceptances = Acceptances()
        self._own, self._shared = CaptionIndex(max_captions), shared

    def propose(self, tokens: Sequence[int]) -> Guess:
        return _look_up(tokens, [self._own, self._shared])

    def add(self, tokens: Sequence[int]) -> None:
        """The stream's newest caption."""
        self._own.add(tokens)
        self._shared.add(tokens)


class DraftHistory:
    """The past captions of all streams of one model."""

    def __init__(self, *, max_captions: int = 200, max_streams: int = 1024, max_shared: int = 1000) -> None:
        """max_captions: of each stream; max_shared: of all together, for streams that have none of their own that fit.

        Where there are more than `max_streams`, the one that was used least recently is forgotten.
        """
        self._max_captions, self._max_streams = max_captions, max_streams
        self._shared = CaptionIndex(max_shared)
        self._streams: OrderedDict[str, StreamDrafts] = OrderedDict()

    def __len__(self) -> int:
        """Streams that are remembered."""
        return len(self._streams)

    def stream(self, name: str) -> StreamDrafts:
        """The past of the stream called `name`, empty at first."""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = StreamDrafts(self._max_captions, self._shared)
            if len(self._streams) > self._max_streams:
                self._streams.popitem(last=False)
        self._streams.move_to_end(name)
        return found


@dataclass(slots=True)
class DraftStatistics:
    """Counters since the start, summed over captions."""

    passes: int = 0
    """Passes of GPT-2 that captions took part in."""
    tokens: int = 0
    proposed: int = 0
    """Guessed tokens that were verified."""
    accepted: int = 0
    """Guessed tokens that were right."""
    dropped: int = 0
    """Guesses cut off at a token that is not in the vocabulary."""


def draft_sources(
    drafts: Drafts, rows: int, vocabulary: int, max_length: int, acceptances: Acceptances
) -> list[DraftSource | None]:
    """A caller's drafts as sources, one a row. Raises InputError that says what is wrong, and in which row.

    max_length: the most tokens that GPT-2 has positions for; acceptances: those of drafts that are given as tokens.
    """
    if not isinstance(drafts, Sequence):
        raise InputError(f"drafts: a list with one token list or None a row is expected, not {type(drafts).__name__}")
    if len(drafts) != rows:
        raise InputError(f"drafts: {len(drafts)} for {rows} rows; give one token list or None a row")
    found: list[DraftSource | None] = []
    for row, draft in enumerate(drafts):
        if draft is None or isinstance(draft, DraftSource):
            found.append(draft)
        else:
            found.append(TokenDraft(_check_draft(draft, row, vocabulary, max_length), acceptances))
    return found


def _check_draft(draft: Iterable[int], row: int, vocabulary: int, max_length: int) -> list[int]:
    if isinstance(draft, str | bytes) or not isinstance(draft, Iterable):
        raise InputError(f"drafts, row {row}: a list of token ids or None is expected, not {type(draft).__name__}")
    try:
        tokens = [operator.index(token) for token in draft]
    except TypeError:
        raise InputError(f"drafts, row {row}: token ids are integers") from None
    if len(tokens) > max_length:
        raise InputError(f"drafts, row {row}: {len(tokens)} tokens, GPT-2 has positions for {max_length}")
    wrong = next((token for token in tokens if not 0 <= token < vocabulary), None)
    if wrong is not None:
        raise InputError(f"drafts, row {row}: token {wrong} is not in the vocabulary (0 to {vocabulary - 1})")
    return tokens
