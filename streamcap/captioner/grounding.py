"""Saying only what is seen: object words that an image's own tags deny are held back, and how sure a caption is.

A checkpoint whose mapping has tag heads says in `config.json` what they mean:

    "tags": {"objects": [80 class names], "scenes": [...], "deny_below": 0.2,
             "confidence": {"bias": b, "weakest": w, "logprob": l, "none": n}}

The heads' outputs are the objects, several of each, and the scenes, in this order. A word is denied where every class
that it may stand for has a probability under `deny_below`; the decoder then takes the next best token. Without
`confidence` results have none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from streamcap.captioner.decoding.tokenizer import TextDecoder
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.mini_encoder import TaggedMapping
from streamcap.captioner.models.prompt import MappedPrefixPrompter, Prompt
from streamcap.captioner.object_words import GENERAL, OBJECTS, find_mentions
from streamcap.errors import InputError

_LAST_WORDS = frozenset(("hydrant", "hydrants", "meter", "meters", "racket", "rackets", "teddy", "phone", "phones"))
"""Last words of pairs that mean the object alone as well; `light` or `plant` do not."""
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


def logit(probability: float) -> float:
    """log(p / (1 - p)), of p kept away from 0 and 1."""
    kept = min(max(probability, _FLOOR), 1 - _FLOOR)
    return math.log(kept / (1 - kept))


class Grounding:
    """What the tags of one checkpoint deny, and what they make of its captions.

    objects: class names, in the order of the heads' first outputs. Raises InputError for a class that has no words.
    """

    def __init__(
        self, objects: Sequence[str], deny_below: float, confidence: Confidence | None, tokens: TextDecoder
    ) -> None:
        if (stray := next((name for name in objects if name not in OBJECTS), None)) is not None:
            raise InputError(f"tags: {stray!r} is no known object class")
        self.objects = tuple(objects)
        self.deny_below = deny_below
        self.confidence = confidence
        self._numbers = {name: number for number, name in enumerate(self.objects)}
        table = _token_classes(self.objects, tokens)
        self._tokens = torch.tensor(sorted(table), dtype=torch.long)
        self._classes = torch.zeros(len(table), len(self.objects), dtype=torch.bool)
        for row, token in enumerate(sorted(table)):
            self._classes[row, [self._numbers[name] for name in table[token]]] = True

    def denied(self, tags: Tensor, vocabulary: int) -> Tensor:
        """(B, V) bool: the tokens that `tags` (B, K), probabilities, deny."""
        allowed = (tags[:, : len(self.objects)] >= self.deny_below).to(self._classes.device)
        held = ~(allowed.unsqueeze(1) & self._classes).any(2)
        mask = torch.zeros(len(tags), vocabulary, dtype=torch.bool)
        mask[:, self._tokens] = held
        return mask.to(tags.device)

    def estimate(self, text: str, logprob: float, tags: Tensor) -> float | None:
        """The confidence of a caption of an image with these tags (K,); None where the checkpoint cannot say."""
        if self.confidence is None:
            return None
        return self.confidence.estimate(self.weakest(text, tags), logprob)

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
        denied = self.grounding.denied(tags, gpt2.config.vocab_size)
        return [Prompt(prefix, tags=row, denied=held) for prefix, row, held in zip(prefixes, tags, denied, strict=True)]


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
        return Grounding(
            [str(name) for name in fields["objects"]], float(fields.get("deny_below", 0.0)), confidence, tokens
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: tags: {type(error).__name__} {error}") from None


def _token_classes(objects: Sequence[str], tokens: TextDecoder) -> dict[int, set[str]]:
    """The classes that each single-token object word may stand for; words of several tokens are never denied."""
    known = set(objects)
    words: dict[str, set[str]] = {}
    for name in objects:
        for phrase in OBJECTS[name]:
            *first, last = phrase.split()
            if not first or last in _LAST_WORDS or any(last in several for several in OBJECTS.values()):
                words.setdefault(last, set()).add(name)
    for word, several in GENERAL.items():
        words.setdefault(word, set()).update(several & known)
    table: dict[int, set[str]] = {}
    for word, classes in words.items():
        ids = tokens.encode(word)
        # Not the token that a tokenizer has for everything unknown.
        if len(ids) == 1 and tokens.text(ids) == word:
            table.setdefault(ids[0], set()).update(classes)
    return table
