"""Self-critical training: sampled captions with a better reward than others of the same image become more likely.

Rennie et al. 2017, "Self-critical Sequence Training for Image Captioning", with the baseline of Luo 2020, "A Better
Variant of Self-Critical Sequence Training": each sample's baseline is the mean reward of the image's other samples,
so that no greedy caption has to be decoded. The reward is CIDEr-D with the end of the sentence as a word.

The cross-entropy stays part of the loss: with a small weight for captions of real images, which keeps sentences fluent,
and in full for synthetic images, whose one sentence must stay exact.
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
"""Lower bound of the deviation that advantages (in CIDEr-D) are divided by: a batch of equally good captions then has
hardly any effect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScstOptions(CaptionStageOptions):
    """Options of a stage of self-critical training."""

    samples: int = 5
    """Captions sampled for each real image; at least 2."""
    longest: int = 24
    """Maximum number of tokens of a sampled caption, the stop token included."""
    likelihood: float = 0.15
    """Weight of the cross-entropy of captions of real images."""


class ScstTrainer(CaptionStageTrainer):
    """Trains mapping and GPT-2 on stored features, by reward."""

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
        self._cider = CiderD([[[*self._words(caption), END] for caption in several] for several in tokens])

    def _losses(self, measured: dict[str, float]) -> dict[str, Tensor]:
        options = self.options
        rows = self._next_rows(options.real, len(self._tokens))
        grid = self._with_noise(self._stored().random_real_views(rows))
        drawn = self._sample(grid)
        rewards = torch.tensor(
            [[self.reward(int(row), one) for one in several] for row, several in zip(rows, drawn, strict=True)]
        )
        measured[REWARD] = rewards.mean().item()
        captions = [some(self._tokens[row], options.captions) for row in rows]
        better = advantages(rewards)
        # Divided by their deviation: the rewards of a weak model differ little, and the cross-entropy, whose weight is
        # fixed, would outweigh them.
        parts = self._real_losses(grid, drawn, better / better.std().clamp(min=MIN_DEVIATION), captions)
        return parts | self._sentence_loss()

    def reward(self, row: int, caption: Sample) -> float:
        """CIDEr-D, 0 to 10, of a caption of real image `row`. A truncated caption lacks the word for the end."""
        words = self._words(caption.tokens)
        return self._cider.score(row, [*words, END] if caption.stopped else words)

    def _words(self, tokens: list[int]) -> list[str]:
        text: str = self._tokenizer.decode(tokens)
        return text.split()

    def _sample(self, grid: Tensor) -> list[list[Sample]]:
        """Captions of each row of `grid` (B, N, C), sampled without dropout."""
        self.model.eval()
        with torch.no_grad():
            prefix = self.model.mapping(grid)
        drawn = sample(fast_copy(self.model.gpt), prefix, self.options.samples, self._stop, self.options.longest)
        self.model.train()
        return drawn

    def _real_losses(
        self, grid: Tensor, drawn: list[list[Sample]], better: Tensor, captions: list[list[list[int]]]
    ) -> dict[str, Tensor]:
        """The losses of real images: "drawn", and "captions" where `options.likelihood` is not 0.

        Parameters as of `sampled_losses`.
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
    """The losses "drawn" of sampled captions and, if there are any, "captions" of reference captions.

    One pass over the prefixes (B, P, E) gives both. drawn: for each image its sampled captions. better: (B, samples),
    the advantage of each. captions: for each image its reference captions.
    """
    together = [[one.tokens for one in several] + true for several, true in zip(drawn, captions, strict=True)]
    sampled_sums, reference_sums, counts = [], [], [0, 0]
    for rows in passes(together):
        packed = pack([together[row] for row in rows], prefix.shape[1], stop).to(prefix.device)
        logits = packed_logits(gpt, prefix[rows], packed)
        weights, counted, true = _roles([drawn[row] for row in rows], [captions[row] for row in rows], better[rows])
        nats = F.cross_entropy(logits[counted], packed.targets[counted], reduction="none")
        sampled_sums.append((weights[counted].to(prefix.device) * nats).sum())
        reference_sums.append(
            F.cross_entropy(logits[true], packed.targets[true], label_smoothing=label_smoothing, reduction="sum")
        )
        counts[0] += int(counted.sum())
        counts[1] += int(true.sum())
    parts = {"drawn": torch.stack(sampled_sums).sum() / max(1, counts[0])}
    if counts[1]:
        parts["captions"] = torch.stack(reference_sums).sum() / counts[1]
    return parts


def _roles(drawn: list[list[Sample]], captions: list[list[list[int]]], better: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each target token, in the order of `pack`: the weight of its caption, whether it was sampled, and whether it
    is of a reference caption. The stop token that `pack` adds to a truncated caption is neither.
    """
    weights: list[float] = []
    counted: list[bool] = []
    true: list[bool] = []
    for row, (several, references) in enumerate(zip(drawn, captions, strict=True)):
        for one, weight in zip(several, better[row].tolist(), strict=True):
            length = len(one.tokens)
            weights += [weight] * (length + 1)
            counted += [True] * length + [one.stopped]
            true += [False] * (length + 1)
        for caption in references:
            length = len(caption) + 1
            weights += [0.0] * length
            counted += [False] * length
            true += [True] * length
    return torch.tensor(weights), torch.tensor(counted), torch.tensor(true)


def advantages(rewards: Tensor) -> Tensor:
    """Rewards (B, K), less the mean of the other K - 1 rewards of the row."""
    count = rewards.shape[1]
    others = (rewards.sum(1, keepdim=True) - rewards) / (count - 1)
    return rewards - others
