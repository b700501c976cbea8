"""Saying only what is seen: object words that an image's own tags deny are suppressed, and how sure a caption is.

A checkpoint whose mapping has tag heads says in `config.json` what they mean:

    "tags": {"objects": [80 class names], "scenes": [...], "deny_below": 0.2,
             "confidence": {"bias": b, "weakest": w, "logprob": l, "none": n},
             "short": {"bias": b, "slope": s, "min_confidence": m, "replace_below": r}}

The heads' outputs are the objects, several of each, and the scenes, in this order. A word is denied where every class
that it may stand for has a probability under `deny_below`; the decoder then takes the next best token that begins a
word. Without `confidence` results have none. With `short` a caption that leaves out what the tags are sure of gives way
to a short sentence that names it, see `ShortSentences`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from streamcap.captioner.decoding.sampling import CONTINUES, DENIED
from streamcap.captioner.decoding.tokenizer import TextDecoder
from streamcap.captioner.grounding.object_words import GENERAL, OBJECTS, find_mentions
from streamcap.captioner.grounding.repeats import without_repeats
from streamcap.captioner.grounding.short_sentence import short_sentence
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.mini_encoder import TaggedMapping
from streamcap.captioner.models.prompt import MappedPrefixPrompter, Prompt
from streamcap.errors import InputError

_LAST_WORDS = frozenset(("hydrant", "hydrants", "meter", "meters", "racket", "rackets", "teddy", "phone", "phones"))
"""Last words of pairs that mean the object alone as well; `light` or `plant` do not."""
_STEM = 4
"""Letters from which on the first token of a word may be suppressed for it: `pen` of `penguin` begins too much else."""
_SECOND_OBJECT = 0.9
_SEVERAL = 0.5
_SCENE = 0.7
"""Probabilities from which on a short sentence names a second object, several of one, and a place."""
_FLOOR = 1e-4
"""Probabilities are kept this far from 0 and 1 before their logit is taken."""


@dataclass(frozen=True, slots=True)
class Confidence:
    """A logistic model of "no object word of this caption is false"."""

    bias: float
    weakest: float
    """Of the logit of the least probable object word."""
    logprob: float
    """Of the caption's mean log-probability."""
    none: float
    """Added where a caption has no object word."""

    def estimate(self, weakest: float | None, logprob: float) -> float:
        """From 0 to 1. weakest: the probability of the least probable object word, None where there is none."""
        x = self.bias + self.logprob * logprob
        x += self.none if weakest is None else self.weakest * logit(weakest)
        return 1 / (1 + math.exp(-max(-50.0, min(50.0, x))))


@dataclass(frozen=True, slots=True)
class ShortSentences:
    """When a short sentence of the surest tags ("a car on a street") takes a caption's place.

    It does so where it is sure, and the caption names no object at all, or not the surest one and is less sure, or is
    less sure than `replace_below`.
    """

    bias: float
    slope: float
    """A logistic model of "the surest object is there", of the logit of its probability."""
    min_confidence: float
    """From which on a short sentence is sure."""
    replace_below: float = 0.0

    def estimate(self, probability: float) -> float:
        """The confidence, from 0 to 1, of a short sentence whose object has this probability."""
        return 1 / (1 + math.exp(-(self.bias + self.slope * logit(probability))))


def logit(probability: float) -> float:
    """log(p / (1 - p)), of p kept away from 0 and 1."""
    kept = min(max(probability, _FLOOR), 1 - _FLOOR)
    return math.log(kept / (1 - kept))


class Grounding:
    """What the tags of one checkpoint deny, and what they make of its captions.

    objects: class names, in the order of the heads' first outputs. scenes: names, in the order of the last ones.
    Raises InputError for a class that has no words.
    """

    def __init__(
        self,
        objects: Sequence[str],
        deny_below: float,
        confidence: Confidence | None,
        tokens: TextDecoder,
        *,
        scenes: Sequence[str] = (),
        short: ShortSentences | None = None,
    ) -> None:
        if (stray := next((name for name in objects if name not in OBJECTS), None)) is not None:
            raise InputError(f"tags: {stray!r} is no known object class")
        self.objects = tuple(objects)
        self.scenes = tuple(scenes)
        self.deny_below = deny_below
        self.confidence = confidence
        self.short = short
        self._numbers = {name: number for number, name in enumerate(self.objects)}
        table = _token_classes(self.objects, tokens)
        self._tokens = torch.tensor(sorted(table), dtype=torch.long)
        self._continuations = torch.tensor(sorted(tokens.continuations() - table.keys()), dtype=torch.long)
        self._classes = torch.zeros(len(table), len(self.objects), dtype=torch.bool)
        for row, token in enumerate(sorted(table)):
            self._classes[row, [self._numbers[name] for name in table[token]]] = True

    def suppressed(self, tags: Tensor, vocabulary: int) -> Tensor:
        """(B, V) uint8: DENIED for tokens that `tags` (B, K), probabilities, deny; CONTINUES for pieces of words."""
        allowed = (tags[:, : len(self.objects)] >= self.deny_below).to(self._classes.device)
        denied = ~(allowed.unsqueeze(1) & self._classes).any(2)
        suppressed = torch.zeros(len(tags), vocabulary, dtype=torch.uint8)
        suppressed[:, self._continuations] = CONTINUES
        suppressed[:, self._tokens] = denied.to(torch.uint8) * DENIED
        return suppressed.to(tags.device)

    def judge(self, text: str, logprob: float, tags: Tensor) -> tuple[str, float | None]:
        """What is said of an image with these tags (K,) instead of the caption `text`, mostly the caption itself, and
        its confidence; None where the checkpoint cannot say."""
        text = without_repeats(text)
        confidence = self.estimate(text, logprob, tags)
        if confidence is None or self.short is None:
            return text, confidence
        surest, sure = self.surest(tags)
        if sure < self.short.min_confidence:
            return text, confidence
        named = {name for mention in find_mentions(text) for name in mention.classes}
        leaves_out = not named or (surest not in named and confidence < sure)
        if leaves_out or confidence < min(sure, self.short.replace_below):
            return self.short_sentence(tags), sure
        return text, confidence

    def estimate(self, text: str, logprob: float, tags: Tensor) -> float | None:
        """The confidence of a caption of an image with these tags (K,); None where the checkpoint cannot say."""
        if self.confidence is None:
            return None
        return self.confidence.estimate(self.weakest(text, tags), logprob)

    def surest(self, tags: Tensor) -> tuple[str, float]:
        """The most probable object of tags (K,) and the confidence of a short sentence that names it; its probability
        where the checkpoint makes no short sentences."""
        number = int(tags[: len(self.objects)].argmax())
        probability = float(tags[number])
        return self.objects[number], probability if self.short is None else self.short.estimate(probability)

    def short_sentence(self, tags: Tensor) -> str:
        """The surest object of tags (K,), a second one that is as good as certain, and the place."""
        known, count = tags.tolist(), len(self.objects)
        first, *others = sorted(range(count), key=lambda number: -known[number])
        shown = [first] + [number for number in others[:1] if known[number] >= _SECOND_OBJECT]
        scenes = [name for name, share in zip(self.scenes, known[2 * count :], strict=False) if share >= _SCENE]
        return short_sentence([(self.objects[one], known[count + one] >= _SEVERAL) for one in shown], scenes)

    def weakest(self, text: str, tags: Tensor) -> float | None:
        """The probability of the least probable object word of `text`; None where it has none."""
        numbers = [
            [self._numbers[name] for name in mention.classes if name in self._numbers]
            for mention in find_mentions(text)
        ]
        known = tags.tolist()
        return min((max(known[number] for number in several) for several in numbers if several), default=None)


class GroundedPrefix(MappedPrefixPrompter):
    """The prefix of a mapping with tag heads; its prompts carry the tags, and what they deny once that is known."""

    mapping: TaggedMapping

    def __init__(self, mapping: TaggedMapping) -> None:
        super().__init__(mapping)
        self.grounding: Grounding | None = None

    def prompts(self, embeddings: Tensor, gpt2: GPT2) -> list[Prompt]:
        logits = self.mapping.tag_heads(embeddings)
        prefixes = self.mapping.mapped(embeddings, logits)
        tags = logits.float().sigmoid()
        if self.grounding is None:
            return [Prompt(prefix, tags=row) for prefix, row in zip(prefixes, tags, strict=True)]
        suppressed = self.grounding.suppressed(tags, gpt2.config.vocab_size)
        return [
            Prompt(prefix, tags=row, suppressed=each)
            for prefix, row, each in zip(prefixes, tags, suppressed, strict=True)
        ]


def read_grounding(config: Mapping[str, Any], where: str, tokens: TextDecoder) -> Grounding | None:
    """What a config's `tags` say; None without them. Raises InputError that names the setting at fault."""
    fields = config.get("tags")
    if fields is None:
        return None
    try:
        calibration = fields.get("confidence")
        confidence = (
            None if calibration is None else Confidence(**{name: float(value) for name, value in calibration.items()})
        )
        short = fields.get("short")
        return Grounding(
            [str(name) for name in fields["objects"]],
            float(fields.get("deny_below", 0.0)),
            confidence,
            tokens,
            scenes=[str(name) for name in fields.get("scenes", ())],
            short=None if short is None else ShortSentences(**{name: float(value) for name, value in short.items()}),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: tags: {type(error).__name__} {error}") from None


def _token_classes(objects: Sequence[str], tokens: TextDecoder) -> dict[int, set[str]]:
    """The classes that the words which begin with a token may stand for, of tokens that begin nothing but such words.

    Of a word of several tokens that is the first one, where the vocabulary has no other word that begins alike:
    `flaming` begins `flamingos` alone, but `to` of `toasters` is a word of its own.
    """
    known = set(objects)
    words: dict[str, set[str]] = {}
    for name in objects:
        for phrase in OBJECTS[name]:
            *first, last = phrase.split()
            if not first or last in _LAST_WORDS or any(last in several for several in OBJECTS.values()):
                words.setdefault(last, set()).add(name)
    for word, several in GENERAL.items():
        words.setdefault(word, set()).update(several & known)
    beginnings = tokens.word_beginnings()
    table: dict[int, set[str]] = {}
    for word, classes in words.items():
        ids = tokens.encode(word)
        if not ids:
            continue
        first_token, *rest = ids
        # Not the token that a tokenizer has for everything unknown.
        begun = tokens.text([first_token])
        if not rest and begun == word:
            table.setdefault(first_token, set()).update(classes)
        elif rest and len(begun) >= _STEM and word.startswith(begun):
            alike = {other for other in beginnings if other.startswith(begun) and other != begun}
            if alike <= words.keys():
                table.setdefault(first_token, set()).update(classes, *(words[other] for other in alike))
    return table
