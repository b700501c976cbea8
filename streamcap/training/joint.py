"""Training a whole captioner of ours: vision encoder, mapping and GPT-2 at once, on real and on drawn pictures.

What is minimised, for a batch of both kinds:
- of real pictures the cross-entropy of their captions, and through linear heads that are not shipped how far the grid
  is from the teacher's map, pooled vector and logits, and from the words of the captions in no order, which cost
  nothing next to GPT-2;
- of drawn scenes the cross-entropy of their sentence and, through another such head, of what they show. The second is
  what makes the encoder tell kinds and actions apart within minutes: the sentence's own gradient is too faint at first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streamcap.picture import PictureSpec
from streamcap.training import drawn, teacher
from streamcap.training.heads import Norms, Words
from streamcap.training.stage import StageSettings, StageTrainer, some
from streamcap.training.teacher import Lesson
from streamcap.training.views import crop, disturb, normalise, small_shifts


@dataclass(frozen=True, slots=True, kw_only=True)
class JointSettings(StageSettings):
    """One stage in which everything learns."""

    real: int
    """Real pictures a step; 0: drawn scenes alone."""
    scenes: int
    """Drawn pictures a step."""
    captions: int = 5
    """Captions of a real picture used at once; 0: it is only taught."""
    smoothing: float = 0.1
    teach: float = 1.0
    """Weight of the teacher's part of the loss."""
    words: float = 0.0
    """Weight of the part for the captions' words in no order."""
    sentences: float = 0.5
    """Weight of the drawn scenes' sentences; 0: what the scenes show is learned without GPT-2."""


@dataclass(frozen=True, slots=True)
class RealPictures:
    """n training pictures, the tokens of their captions, and what the teacher says of them (None: no teacher)."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    tokens: list[list[list[int]]]
    lessons: list[Lesson] | None


class JointTrainer(StageTrainer):
    """Encoder, mapping and GPT-2 at once."""

    settings: JointSettings

    def __init__(
        self,
        config: Mapping[str, Any],
        picture: PictureSpec,
        settings: JointSettings,
        real: RealPictures | None,
        scenes: drawn.DrawnPictures,
        sentences: list[list[int]],
        stop: int,
    ) -> None:
        super().__init__(config, picture, settings, stop=stop)
        self._real, self._scenes, self._sentences = real, scenes, sentences
        self._norms = Norms(real.lessons[0]) if real is not None and real.lessons else None
        self._words = Words(real.tokens, int(config["gpt2"]["vocab_size"])) if real is not None else None

    def _learning(self) -> Iterable[tuple[str, nn.Parameter]]:
        return [*self.model.named_parameters(), *self.heads.named_parameters()]

    def _losses(self, told: dict[str, float]) -> dict[str, Tensor]:
        settings = self.settings
        parts: dict[str, Tensor] = {}
        rows, flip, lesson, planes = self._real_batch()
        chosen = torch.randperm(len(self._sentences))[: settings.scenes]
        shifted = crop(
            np.asarray(self._scenes.pixels[chosen.numpy()]),
            small_shifts(len(chosen), 0.06),
            torch.rand(len(chosen)) < 0.5,
            self.picture.width,
        )
        planes = torch.cat((planes, disturb(shifted, 0.35)))
        assert self.model.vision is not None  # noqa: S101  a joint model always has one
        grid = self.model.vision(normalise(planes, self.picture))
        real, scene = grid[: len(rows)], grid[len(rows) :]
        if lesson is not None and self._norms is not None and settings.teach:
            parts["teacher"] = settings.teach * self._norms.taught(self.heads, real, lesson, rows, flip)
        if len(rows) and self._words is not None and settings.words:
            parts["words"] = settings.words * self.heads.words_loss(real, self._words.shares(rows))
        if len(rows) and settings.captions and self._real is not None:
            captions = [some(self._real.tokens[row], settings.captions) for row in rows]
            parts["captions"] = self._caption_loss(real, captions, settings.smoothing, settings.word_dropout)
        if len(chosen):
            if settings.sentences:
                said = [[self._sentences[i]] for i in chosen.tolist()]
                parts["sentences"] = settings.sentences * self._caption_loss(scene, said)
            parts["shown"] = 0.3 * self.heads.shown_loss(
                scene, torch.from_numpy(self._scenes.attributes[chosen.numpy()])
            )
        return parts

    def _real_batch(self) -> tuple[Any, Tensor, Lesson | None, Tensor]:
        """Indices, which are mirrored, the lesson whose view it is, and the planes."""
        size, count = self.picture.width, self.settings.real
        if self._real is None or not count:
            return np.zeros(0, np.int64), torch.zeros(0, dtype=torch.bool), None, torch.zeros(0, 3, size, size)
        rows = self._next_rows(count, len(self._real.pixels))
        count = len(rows)
        flip = torch.rand(count) < 0.5
        lesson = None
        boxes = torch.from_numpy(teacher.random_boxes(count, 0))
        if self._real.lessons:
            lesson = self._real.lessons[int(torch.randint(len(self._real.lessons), ()))]
            boxes = torch.from_numpy(lesson.boxes[rows])
        return rows, flip, lesson, disturb(crop(np.asarray(self._real.pixels[rows]), boxes, flip, size), 0.8)
