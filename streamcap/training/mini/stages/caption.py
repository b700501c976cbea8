"""Trains mapping and GPT-2 on the stored features of a frozen encoder, by cross-entropy.

Without the encoder a step is cheap. The loss is over several captions of each real image and the one sentence of each
synthetic image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from streamcap.image_spec import ImageSpec
from streamcap.training.mini.features import StoredFeatures
from streamcap.training.mini.stages.stage import StageOptions, StageTrainer, some


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionStageOptions(StageOptions):
    """Options of a stage on stored features."""

    real: int
    """Real images per step."""
    scenes: int
    """Synthetic images per step."""
    captions: int = 4
    """Captions per real image and step."""
    label_smoothing: float = 0.1
    """For captions of real images only: a synthetic scene has one right sentence."""
    noise: float = 0.02
    """Standard deviation of the noise added to features, relative to theirs."""
    sentences: float = 0.5
    """Weight of the loss of synthetic images."""


class CaptionStageTrainer(StageTrainer):
    """Call `learn_from` before the first step.

    tokens: for each real image the token ids of its captions. sentences: for each synthetic image those of its only
    sentence.
    """

    options: CaptionStageOptions

    def __init__(
        self,
        config: Mapping[str, Any],
        image_spec: ImageSpec,
        options: CaptionStageOptions,
        tokens: list[list[list[int]]],
        sentences: list[list[int]],
        stop: int,
    ) -> None:
        super().__init__(config, image_spec, options, stop=stop)
        self._tokens, self._sentences = tokens, sentences
        self._features: StoredFeatures | None = None
        if self.model.vision is not None:
            self.model.vision.requires_grad_(False)

    @property
    def vision(self) -> nn.Module:
        """The frozen encoder, whose features this stage needs."""
        assert self.ema.vision is not None  # noqa: S101  a stage's model always has one
        return self.ema.vision

    def learn_from(self, features: StoredFeatures) -> None:
        """Set the features of all images, made by `vision`."""
        self._features = features

    def start_from(self, state: Mapping[str, Any]) -> None:
        """Start from the averaged weights of another stage."""
        super().start_from({**state, "model": state["mean"]})

    def _learning(self) -> Iterable[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if not name.startswith("vision.")]

    def _losses(self, measured: dict[str, float]) -> dict[str, Tensor]:
        options, features = self.options, self._stored()
        parts: dict[str, Tensor] = {}
        if options.real:
            rows = self._next_rows(options.real, len(self._tokens))
            captions = [some(self._tokens[row], options.captions) for row in rows]
            grid = self._with_noise(features.random_real_views(rows))
            parts["captions"] = self._caption_loss(grid, captions, options.label_smoothing, options.word_dropout)
        return parts | self._sentence_loss()

    def _sentence_loss(self) -> dict[str, Tensor]:
        if not self.options.scenes:
            return {}
        rows = torch.randint(len(self._sentences), (self.options.scenes,)).sort().values.numpy()
        grid = self._with_noise(self._stored().random_drawn_views(rows))
        loss = self._caption_loss(grid, [[self._sentences[row]] for row in rows])
        return {"sentences": self.options.sentences * loss}

    def _with_noise(self, grid: Tensor) -> Tensor:
        return grid + self.options.noise * grid.std() * torch.randn_like(grid)

    def _stored(self) -> StoredFeatures:
        if self._features is None:
            raise RuntimeError("call learn_from before the first step")
        return self._features
