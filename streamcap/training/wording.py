"""Training of mapping and GPT-2 alone, on the stored features of a frozen encoder: cheap steps, many more of them.

Cross-entropy of several captions of each real picture and of the sentence of each drawn one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from streamcap.picture import PictureSpec
from streamcap.training.features import StoredFeatures
from streamcap.training.stage import StageSettings, StageTrainer, some


@dataclass(frozen=True, slots=True, kw_only=True)
class WordingSettings(StageSettings):
    """One stage on stored features."""

    real: int
    """Real pictures a step."""
    scenes: int
    """Drawn pictures a step."""
    captions: int = 4
    """Captions of a real picture used at once."""
    smoothing: float = 0.1
    """Of real captions; the sentence of a drawn scene is certain."""
    noise: float = 0.02
    """Deviation of the noise on features, in units of their own."""
    sentences: float = 0.5
    """Weight of the drawn scenes' part of the loss."""


class WordingTrainer(StageTrainer):
    """Mapping and GPT-2 on features.

    tokens: by real picture, its captions' token ids. sentences: by drawn picture, its sentence's.
    """

    settings: WordingSettings

    def __init__(
        self,
        config: Mapping[str, Any],
        picture: PictureSpec,
        settings: WordingSettings,
        tokens: list[list[list[int]]],
        sentences: list[list[int]],
        stop: int,
    ) -> None:
        super().__init__(config, picture, settings, stop=stop)
        self._tokens, self._sentences = tokens, sentences
        self._features: StoredFeatures | None = None
        if self.model.vision is not None:
            self.model.vision.requires_grad_(False)

    @property
    def vision(self) -> nn.Module:
        """The encoder whose features are to be stored: the frozen one."""
        assert self.mean.vision is not None  # noqa: S101  a stage's model always has one
        return self.mean.vision

    def learn_from(self, features: StoredFeatures) -> None:
        """Take the features that `vision` made; must be called before the first step."""
        self._features = features

    def start_from(self, state: Mapping[str, Any]) -> None:
        """Take the running mean of another stage, whose encoder stays as it is."""
        super().start_from({**state, "model": state["mean"]})

    def _learning(self) -> Iterable[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.model.named_parameters() if not name.startswith("vision.")]

    def _losses(self, told: dict[str, float]) -> dict[str, Tensor]:
        settings, features = self.settings, self._stored()
        parts: dict[str, Tensor] = {}
        if settings.real:
            rows = self._next_rows(settings.real, len(self._tokens))
            captions = [some(self._tokens[row], settings.captions) for row in rows]
            grid = self._noisy(features.some_views(rows))
            parts["captions"] = self._caption_loss(grid, captions, settings.smoothing, settings.word_dropout)
        return parts | self._sentence_loss()

    def _sentence_loss(self) -> dict[str, Tensor]:
        if not self.settings.scenes:
            return {}
        rows = torch.randint(len(self._sentences), (self.settings.scenes,)).sort().values.numpy()
        grid = self._noisy(self._stored().scenes(rows))
        loss = self._caption_loss(grid, [[self._sentences[row]] for row in rows])
        return {"sentences": self.settings.sentences * loss}

    def _noisy(self, grid: Tensor) -> Tensor:
        return grid + self.settings.noise * grid.std() * torch.randn_like(grid)

    def _stored(self) -> StoredFeatures:
        if self._features is None:
            raise RuntimeError("learn_from was not called")
        return self._features
