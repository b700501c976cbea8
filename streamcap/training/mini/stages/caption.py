"""Training of mapping and GPT-2 alone, on the stored features of a frozen encoder: cheap steps, many more of them.

Cross-entropy of several captions of each real image and of the sentence of each drawn one.
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
    """One stage on stored features."""

    real: int
    """Real images a step."""
    scenes: int
    """Drawn images a step."""
    captions: int = 4
    """Captions of a real image used at once."""
    label_smoothing: float = 0.1
    """Of real captions; the sentence of a drawn scene is certain."""
    noise: float = 0.02
    """Deviation of the noise on features, in units of their own."""
    sentences: float = 0.5
    """Weight of the drawn scenes' part of the loss."""


class CaptionStageTrainer(StageTrainer):
    """Mapping and GPT-2 on features.

    tokens: by real image, its captions' token ids. sentences: by drawn image, its sentence's.
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
        """The encoder whose features are to be stored: the frozen one."""
        assert self.ema.vision is not None  # noqa: S101  a stage's model always has one
        return self.ema.vision

    def learn_from(self, features: StoredFeatures) -> None:
        """Take the features that `vision` made; must be called before the first step."""
        self._features = features

    def start_from(self, state: Mapping[str, Any]) -> None:
        """Take the running mean of another stage, whose encoder stays as it is."""
        super().start_from({**state, "model": state["mean"]})

    def _learning(self) -> Iterable[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if not name.startswith("vision.")]

    def _losses(self, measured: dict[str, float]) -> dict[str, Tensor]:
        options, features = self.options, self._stored()
        parts: dict[str, Tensor] = {}
        if options.real:
            rows = self._next_rows(options.real, len(self._tokens))
            captions = [some(self._tokens[row], options.captions) for row in rows]
            grid = self._noisy(features.some_views(rows))
            parts["captions"] = self._caption_loss(grid, captions, options.label_smoothing, options.word_dropout)
        return parts | self._sentence_loss()

    def _sentence_loss(self) -> dict[str, Tensor]:
        if not self.options.scenes:
            return {}
        rows = torch.randint(len(self._sentences), (self.options.scenes,)).sort().values.numpy()
        grid = self._noisy(self._stored().scenes(rows))
        loss = self._caption_loss(grid, [[self._sentences[row]] for row in rows])
        return {"sentences": self.options.sentences * loss}

    def _noisy(self, grid: Tensor) -> Tensor:
        return grid + self.options.noise * grid.std() * torch.randn_like(grid)

    def _stored(self) -> StoredFeatures:
        if self._features is None:
            raise RuntimeError("learn_from was not called")
        return self._features
