"""Training a whole captioner of ours: vision encoder, mapping and GPT-2 at once, on real and on drawn images.

What is minimised, for a batch of both kinds:
- how far each leg of the encoder is from the teacher's map at that depth. Teacher and encoder look at the very same
  view, recoloured and mixed with another's as it is: the teacher must be consistent (Beyer et al. 2022, "Knowledge
  distillation: A good teacher is patient and consistent"). At first each leg is given the teacher's map and not the
  leg's before it, so that all legs learn at once;
- of real images the cross-entropy of their captions;
- of drawn scenes the cross-entropy of their sentence and, through a linear head that is not shipped, of what they show.
  The second is what makes the encoder tell kinds and actions apart within minutes: the sentence's own gradient is too
  faint at first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streamcap.captioner.models.mini_encoder import StagedEncoder
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec
from streamcap.training.mini import synthetic
from streamcap.training.mini.augment import color_jitter, crop, normalize, random_boxes, small_shifts, whole
from streamcap.training.mini.heads import Norms
from streamcap.training.mini.stages.stage import StageOptions, StageTrainer, some
from streamcap.training.mini.teacher import Teacher

NORM_PICTURES = 300
"""Real images over which the teacher's channels are brought to one scale."""
INNER = 0.2
"""Weight of the legs before the last once they are led by one another: the last one's map is what is wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointOptions(StageOptions):
    """One stage in which everything learns."""

    real: int
    """Real images a step; 0: drawn scenes alone."""
    scenes: int
    """Drawn images a step."""
    captions: int = 5
    """Captions of a real image used at once; 0: it is only taught."""
    label_smoothing: float = 0.1
    distill_weight: float = 1.0
    """Weight of the teacher's part of the loss; 0: without."""
    teacher_forcing: float = 0.4
    """Share of the steps over which the legs go from the teacher's maps to one another's."""
    min_crop_area: float = 0.25
    """Smallest part of a real image that a view shows; a third of the views show all."""
    mixup_prob: float = 0.0
    """Share of the views that have another laid over them (Zhang et al. 2018), which no caption is true of."""
    sentences: float = 0.5
    """Weight of the drawn scenes' sentences; 0: what the scenes show is learned without GPT-2."""
    train_decoder: bool = True
    """False: GPT-2 stays as it is, and what captions ask is asked of the mapping and the encoder alone."""


@dataclass(frozen=True, slots=True)
class RealPictures:
    """n training images and the tokens of their captions."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    tokens: list[list[list[int]]]


class JointTrainer(StageTrainer):
    """Encoder, mapping and GPT-2 at once. teacher None: the encoder learns from captions and scenes alone. Raises
    InputError where the teacher and the encoder have not as many maps."""

    options: JointOptions

    def __init__(
        self,
        config: Mapping[str, Any],
        image_spec: ImageSpec,
        options: JointOptions,
        real: RealPictures,
        scenes: synthetic.DrawnPictures,
        sentences: list[list[int]],
        stop: int,
        teacher: Teacher | None,
    ) -> None:
        super().__init__(config, image_spec, options, stop=stop)
        self.model.gpt.requires_grad_(options.train_decoder)
        self._real, self._scenes, self._sentences = real, scenes, sentences
        self._teacher = teacher if options.distill_weight else None
        if self._teacher is None:
            return
        chosen = np.linspace(0, len(real.pixels) - 1, min(NORM_PICTURES, len(real.pixels))).astype(np.int64)
        planes = crop(real.pixels[chosen], whole(len(chosen)), torch.zeros(len(chosen), dtype=torch.bool), self._side)
        features = self._teacher.features(_bytes(planes))
        self._norms = Norms(features)
        stages = list(self._encoder.stages) if isinstance(self._encoder, StagedEncoder) else []
        if len(stages) != len(features.maps):
            raise InputError(f"the teacher has {len(features.maps)} maps to follow and the encoder {len(stages)} legs")

    @property
    def _side(self) -> int:
        return self.image_spec.width

    @property
    def _encoder(self) -> nn.Module:
        assert self.model.vision is not None  # noqa: S101  a joint model always has one
        return self.model.vision

    def _learning(self) -> Iterable[tuple[str, nn.Parameter]]:
        learning = [*self.model.named_parameters(), *self.heads.named_parameters()]
        return learning if self.options.train_decoder else [one for one in learning if not one[0].startswith("gpt.")]

    def _losses(self, measured: dict[str, float]) -> dict[str, Tensor]:
        options = self.options
        rows, real_planes = self._real_views()
        chosen, drawn_planes = self._drawn_views()
        planes = torch.cat((real_planes, drawn_planes))
        parts: dict[str, Tensor] = {}
        if self._teacher is not None:
            features = self._norms(self._teacher.features(_bytes(planes)))
            stages = self._run_stages(normalize(planes, self.image_spec), features.maps)
            inner = max(INNER, self._forced())
            parts |= {
                name: options.distill_weight * part
                for name, part in self.heads.followed(stages, features, inner).items()
            }
            grid = stages[-1].flatten(2).transpose(1, 2)
        else:
            grid = self._encoder(normalize(planes, self.image_spec))
        real, scene = grid[: len(rows)], grid[len(rows) :]
        if len(rows) and options.captions:
            captions = [some(self._real.tokens[row], options.captions) for row in rows]
            parts["captions"] = self._caption_loss(real, captions, options.label_smoothing, options.word_dropout)
        if len(chosen):
            if options.sentences:
                said = [[self._sentences[i]] for i in chosen]
                parts["sentences"] = options.sentences * self._caption_loss(scene, said)
            parts["shown"] = 0.3 * self.heads.shown_loss(scene, torch.from_numpy(self._scenes.attributes[chosen]))
        return parts

    def _real_views(self) -> tuple[Any, Tensor]:
        """Indices, and planes (B, 3, S, S)."""
        options = self.options
        if not options.real:
            return np.zeros(0, np.int64), torch.zeros(0, 3, self._side, self._side)
        rows = self._next_rows(options.real, len(self._real.pixels))
        count = len(rows)
        boxes = torch.where(torch.rand(count, 1) < 1 / 3, whole(count), random_boxes(count, options.min_crop_area))
        planes = crop(np.asarray(self._real.pixels[rows]), boxes, torch.rand(count) < 0.5, self._side)
        planes = color_jitter(planes, 0.8)
        over = torch.where(torch.rand(count) < options.mixup_prob, 0.5 * torch.rand(count), torch.zeros(count))
        return rows, torch.lerp(planes, planes[torch.randperm(count)], over.view(-1, 1, 1, 1))

    def _drawn_views(self) -> tuple[Any, Tensor]:
        chosen = torch.randperm(len(self._sentences))[: self.options.scenes].numpy()
        boxes, mirrored = small_shifts(len(chosen), 0.06), torch.rand(len(chosen)) < 0.5
        return chosen, color_jitter(crop(np.asarray(self._scenes.pixels[chosen]), boxes, mirrored, self._side), 0.35)

    def _forced(self) -> float:
        """The share of the images of which a leg is given the teacher's map."""
        return max(0.0, 1 - self.step / max(1, self.options.teacher_forcing * self.options.steps))

    def _run_stages(self, planes: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
        """What each leg makes of the one before it, or, of the images whose turn it is, of the teacher's map."""
        encoder = self._encoder
        assert isinstance(encoder, StagedEncoder)  # noqa: S101  asked when it was built
        share, grid, stages = self._forced(), encoder.before(planes), []
        for stage, said in zip(encoder.stages, maps, strict=True):
            made = stage(grid)
            stages.append(made)
            teacher_forcing = (torch.rand(len(made)) < share).view(-1, 1, 1, 1)
            count = said.shape[1]
            grid = torch.cat((torch.where(teacher_forcing, said, made[:, :count]), made[:, count:]), 1)
        return stages


def _bytes(planes: Tensor) -> Any:
    """(B, 3, S, S) from 0 to 1 → uint8 (B, S, S, 3)."""
    return (planes * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
