"""Self-critical steps on stored grids whose reward also asks whether the objects of a caption are there.

The reward of a drawn caption is its CIDEr-D, less a penalty for each object word that is false of the image, and more
where it names the main object. See `mini.scst` for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from streamcap.captioner.grounding.object_words import find_mentions
from streamcap.training.evaluation.cider import END, CiderD
from streamcap.training.mini.grounding.data.tags import CLASSES
from streamcap.training.mini.grounding.stored import StoredSettings, StoredTrainer
from streamcap.training.mini.grounding.trainer import ImageSet, Rows
from streamcap.training.mini.sampling import Sample, fast_copy, sample
from streamcap.training.mini.stages.scst import MIN_DEVIATION, advantages, sampled_losses
from streamcap.training.mini.stages.stage import REWARD, some

_NUMBERS = {name: number for number, name in enumerate(CLASSES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticSettings(StoredSettings):
    """One stage of self-critical training."""

    samples: int = 5
    """Captions drawn of each image; at least 2."""
    longest: int = 24
    """Tokens of a drawn caption, the stop token included."""
    likelihood: float = 0.15
    """Weight of the cross-entropy of captions."""
    false_penalty: float = 0.4
    """For each object word that is false, in CIDEr-D."""
    main_bonus: float = 0.25
    """For naming the main object, in CIDEr-D."""
    pseudo_cider: float = 0.3
    """Weight of the CIDEr-D where the references are made of tags: they are short and alike, and it is high there."""


class Reward:
    """What a caption of an image is worth."""

    def __init__(self, images: ImageSet, tokenizer: Tokenizer, settings: CriticSettings) -> None:
        self._images, self._tokenizer, self._settings = images, tokenizer, settings
        captioned = [row for row, several in enumerate(images.tokens) if several]
        self._place = {row: place for place, row in enumerate(captioned)}
        self._judge = CiderD([[[*self._words(one), END] for one in images.tokens[row]] for row in captioned])

    def score(self, row: int, caption: Sample) -> float:
        """Of a caption of image `row`, which has captions; one that was cut off has no end."""
        words = self._words(caption.tokens)
        cider = self._judge.score(self._place[row], [*words, END] if caption.stopped else words)
        false, named = self.truth(row, " ".join(words))
        settings = self._settings
        weight = 1.0 if self._images.captioned[row] else settings.pseudo_cider
        return weight * cider - settings.false_penalty * false + settings.main_bonus * named

    def truth(self, row: int, text: str) -> tuple[int, bool]:
        """How many object words are false, and whether the main object is named."""
        values, weights = self._images.values[row], self._images.weights[row]
        false, named = 0, False
        for mention in find_mentions(text):
            numbers = [_NUMBERS[name] for name in mention.classes]
            # Where only silence speaks against an object its weight is less than 1.
            absent = (values[numbers] == 0) & (weights[numbers] == 1)
            false += bool(np.all(absent))
            named |= not mention.general and self._images.main[row] == numbers[0]
        return false, named

    def _words(self, tokens: list[int]) -> list[str]:
        text: str = self._tokenizer.decode(tokens)
        return text.split()


class CriticTrainer(StoredTrainer):
    """Mapping and GPT-2 by reward; tags, drawn scenes and text as in the other stages."""

    options: CriticSettings

    def __init__(self, *given: Any, tokenizer: Tokenizer, **named: Any) -> None:
        super().__init__(*given, **named)
        self._reward = Reward(self._images, tokenizer, self.options)

    def _caption_parts(self, rows: Rows, prefix: Tensor, measured: dict[str, float]) -> dict[str, Tensor]:
        options = self.options
        captioned = [place for place, row in enumerate(rows) if self._images.tokens[row]]
        rows, prefix = rows[captioned], prefix[captioned]
        drawn = sample(
            fast_copy(self.model.gpt).to(self.device), prefix.detach(), options.samples, self._stop, options.longest
        )
        rewards = torch.tensor(
            [[self._reward.score(int(row), one) for one in several] for row, several in zip(rows, drawn, strict=True)]
        )
        measured[REWARD] = rewards.mean().item()
        captions = [some(self._images.tokens[row], self._caption_count(row)) for row in rows]
        better = advantages(rewards)
        better = better / better.std().clamp(min=MIN_DEVIATION)
        parts = sampled_losses(self.model.gpt, prefix, drawn, better, captions, self._stop, options.label_smoothing)
        return {name: part if name == "drawn" else options.likelihood * part for name, part in parts.items()}
