"""Self-critical training: captions are drawn from the model, and those better than their siblings made more likely.

Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning", with the baseline of Luo 2020, "A Better
Variant of Self-Critical Sequence Training": each sample's baseline is the mean reward of the image's other samples,
so that no greedy caption has to be decoded. The reward is CIDEr-D with the sentence's end among the n-grams.

Cross-entropy goes on beside it: on real captions a little, so that sentences stay fluent, and on drawn scenes in full,
whose one sentence must stay right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2LMHeadModel

from streamcap.image_spec import ImageSpec
from streamcap.training.evaluation.cider import END, CiderD
from streamcap.training.mini.sampling import Sample, fast_copy, sample
from streamcap.training.mini.stages.caption import CaptionStageOptions, CaptionStageTrainer
from streamcap.training.mini.stages.stage import REWARD, passes, some
from streamcap.training.model import pack, packed_logits

MIN_DEVIATION = 0.02
"""Of advantages, in CIDEr-D: where all captions of a batch are as good, none is to be learned from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScstOptions(CaptionStageOptions):
    """One stage of self-critical training."""

    samples: int = 5
    """Captions drawn of each real image; at least 2."""
    longest: int = 24
    """Tokens of a drawn caption, the stop token included."""
    likelihood: float = 0.15
    """Weight of the cross-entropy of real captions."""


class ScstTrainer(CaptionStageTrainer):
    """Mapping and GPT-2 on features, by reward."""

    options: ScstOptions

    def __init__(
        self,
        config: Mapping[str, Any],
        image_spec: ImageSpec,
        options: ScstOptions,
        tokens: list[list[list[int]]],
        sentences: list[list[int]],
        stop: int,
        tokenizer: Tokenizer,
    ) -> None:
        super().__init__(config, image_spec, options, tokens, sentences, stop)
        self._tokenizer = tokenizer
        self._judge = CiderD([[[*self._words(caption), END] for caption in several] for several in tokens])

    def _losses(self, measured: dict[str, float]) -> dict[str, Tensor]:
        options = self.options
        rows = self._next_rows(options.real, len(self._tokens))
        grid = self._noisy(self._stored().some_views(rows))
        drawn = self._draw(grid)
        rewards = torch.tensor(
            [[self.reward(int(row), one) for one in several] for row, several in zip(rows, drawn, strict=True)]
        )
        measured[REWARD] = rewards.mean().item()
        captions = [some(self._tokens[row], options.captions) for row in rows]
        better = advantages(rewards)
        # In units of its own deviation: a weak model's rewards lie close together, and beside the cross-entropy, whose
        # weight is fixed, they would have no say.
        parts = self._drawn_loss(grid, drawn, better / better.std().clamp(min=MIN_DEVIATION), captions)
        return parts | self._sentence_loss()

    def reward(self, row: int, caption: Sample) -> float:
        """CIDEr-D of a caption of real image `row`; one that was cut off has no end."""
        words = self._words(caption.tokens)
        return self._judge.score(row, [*words, END] if caption.stopped else words)

    def _words(self, tokens: list[int]) -> list[str]:
        text: str = self._tokenizer.decode(tokens)
        return text.split()

    def _draw(self, grid: Tensor) -> list[list[Sample]]:
        """As users' captioner would say it: without dropout."""
        self.model.eval()
        with torch.no_grad():
            prefix = self.model.mapping(grid)
        drawn = sample(fast_copy(self.model.gpt), prefix, self.options.samples, self._stop, self.options.longest)
        self.model.train()
        return drawn

    def _drawn_loss(
        self, grid: Tensor, drawn: list[list[Sample]], better: Tensor, captions: list[list[list[int]]]
    ) -> dict[str, Tensor]:
        """Both losses on real images, from one pass: drawn captions and true ones lie behind the same prefix.

        better: (B, samples), how much each drawn caption's reward is above its baseline.
        """
        options = self.options
        if not options.likelihood:
            captions = [[] for _ in drawn]
        prefix: Tensor = self.model.mapping(grid)
        parts = sampled_losses(self.model.gpt, prefix, drawn, better, captions, self._stop, options.label_smoothing)
        return {name: part if name == "drawn" else options.likelihood * part for name, part in parts.items()}


def sampled_losses(
    gpt: GPT2LMHeadModel,
    prefix: Tensor,
    drawn: list[list[Sample]],
    better: Tensor,
    captions: list[list[list[int]]],
    stop: int,
    label_smoothing: float,
) -> dict[str, Tensor]:
    """The losses "drawn" of captions drawn by chance and, where there are any, "captions" of true ones, from one pass
    over the prefixes (B, P, E). better: (B, samples), how much each drawn caption's reward is above its baseline."""
    laid = [[one.tokens for one in several] + true for several, true in zip(drawn, captions, strict=True)]
    chance, truth, counts = [], [], [0, 0]
    for rows in passes(laid):
        packed = pack([laid[row] for row in rows], prefix.shape[1], stop).to(prefix.device)
        logits = packed_logits(gpt, prefix[rows], packed)
        weights, counted, true = _roles([drawn[row] for row in rows], [captions[row] for row in rows], better[rows])
        surprise = F.cross_entropy(logits[counted], packed.targets[counted], reduction="none")
        chance.append((weights[counted].to(prefix.device) * surprise).sum())
        truth.append(
            F.cross_entropy(logits[true], packed.targets[true], label_smoothing=label_smoothing, reduction="sum")
        )
        counts[0] += int(counted.sum())
        counts[1] += int(true.sum())
    parts = {"drawn": torch.stack(chance).sum() / max(1, counts[0])}
    if counts[1]:
        parts["captions"] = torch.stack(truth).sum() / counts[1]
    return parts


def _roles(drawn: list[list[Sample]], captions: list[list[list[int]]], better: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of every target token, in the order in which `pack` lays them: the weight of its caption, whether it was drawn,
    and whether it is of a true caption. The stop token behind a caption that was cut off is neither."""
    weights: list[float] = []
    counted: list[bool] = []
    true: list[bool] = []
    for row, (several, said) in enumerate(zip(drawn, captions, strict=True)):
        for one, weight in zip(several, better[row].tolist(), strict=True):
            length = len(one.tokens)
            weights += [weight] * (length + 1)
            counted += [True] * length + [one.stopped]
            true += [False] * (length + 1)
        for caption in said:
            length = len(caption) + 1
            weights += [0.0] * length
            counted += [False] * length
            true += [True] * length
    return torch.tensor(weights), torch.tensor(counted), torch.tensor(true)


def advantages(rewards: Tensor) -> Tensor:
    """Rewards (B, K) less the mean of each row's other K - 1."""
    count = rewards.shape[1]
    others = (rewards.sum(1, keepdim=True) - rewards) / (count - 1)
    return rewards - others
