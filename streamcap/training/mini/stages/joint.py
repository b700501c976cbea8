"""Trains vision encoder, mapping and GPT-2 together, on real and synthetic images.

The loss of a batch is the sum of:
- distillation: each stage of the encoder should reproduce the teacher's map of the same depth. Teacher and encoder get
  the same augmented view (Beyer et al. 2022, "Knowledge distillation: A good teacher is patient and consistent"). At
  first each stage gets the teacher's map as its input instead of the previous stage's output, so that all stages learn
  from the start;
- the cross-entropy of the captions of real images;
- the cross-entropy of the sentence of synthetic images, and of their attributes, through a linear head that is not part
  of the trained model. At first the gradient of the sentence alone is too weak to separate kinds and actions.
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

NORM_IMAGES = 300
"""Real images from which the scale of each channel of the teacher is taken."""
INNER = 0.2
"""Smallest weight of the distillation loss of all stages but the last: only the last one's output is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointOptions(StageOptions):
    """Options of a stage that trains the encoder."""

    real: int
    """Real images per step; 0: synthetic images only."""
    scenes: int
    """Synthetic images per step."""
    captions: int = 5
    """Captions per real image and step; 0: real images are used for distillation only."""
    label_smoothing: float = 0.1
    distill_weight: float = 1.0
    """Weight of the distillation losses; 0: no teacher."""
    teacher_forcing: float = 0.4
    """Share of the steps in which the inputs of the stages change from the teacher's maps to their own."""
    min_crop_area: float = 0.25
    """Smallest part of a real image that a view shows, as an area; a third of the views show the whole image."""
    mixup_prob: float = 0.0
    """Share of the views that are blended with another one (Zhang et al. 2018). Use it without captions."""
    sentences: float = 0.5
    """Weight of the sentence of synthetic images; 0: their attributes only, without GPT-2."""
    train_decoder: bool = True
    """False: GPT-2 is frozen."""


@dataclass(frozen=True, slots=True)
class RealImages:
    """n training images and the tokens of their captions."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    """(n, H, W, 3)."""
    tokens: list[list[list[int]]]
    """For each image the token ids of its captions."""


class JointTrainer(StageTrainer):
    """Trains encoder, mapping and GPT-2.

    sentences: for each synthetic image the token ids of its sentence. teacher: None: without distillation. Raises
    InputError if the teacher has another number of maps than the encoder has stages.
    """

    options: JointOptions

    def __init__(
        self,
        config: Mapping[str, Any],
        image_spec: ImageSpec,
        options: JointOptions,
        real: RealImages,
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
        chosen = np.linspace(0, len(real.pixels) - 1, min(NORM_IMAGES, len(real.pixels))).astype(np.int64)
        planes = crop(real.pixels[chosen], whole(len(chosen)), torch.zeros(len(chosen), dtype=torch.bool), self._side)
        features = self._teacher.features(_bytes(planes))
        self._norms = Norms(features)
        stages = list(self._encoder.stages) if isinstance(self._encoder, StagedEncoder) else []
        if len(stages) != len(features.maps):
            raise InputError(f"the teacher has {len(features.maps)} maps, but the encoder has {len(stages)} stages")

    @property
    def _side(self) -> int:
        return self.image_spec.width

    @property
    def _encoder(self) -> nn.Module:
        assert self.model.vision is not None  # noqa: S101  a joint model always has one
        return self.model.vision

    def _learning(self) -> Iterable[tuple[str, nn.Parameter]]:
        everything = [*self.model.named_parameters(), *self.heads.named_parameters()]
        if self.options.train_decoder:
            return everything
        return [(name, parameter) for name, parameter in everything if not name.startswith("gpt.")]

    def _losses(self, measured: dict[str, float]) -> dict[str, Tensor]:
        options = self.options
        rows, real_planes = self._real_views()
        chosen, drawn_planes = self._drawn_views()
        planes = torch.cat((real_planes, drawn_planes))
        parts: dict[str, Tensor] = {}
        if self._teacher is not None:
            features = self._norms(self._teacher.features(_bytes(planes)))
            stages = self._run_stages(normalize(planes, self.image_spec), features.maps)
            distill = self.heads.distill_losses(stages, features, inner=max(INNER, self._forced_share()))
            parts |= {name: options.distill_weight * part for name, part in distill.items()}
            grid = stages[-1].flatten(2).transpose(1, 2)
        else:
            grid = self._encoder(normalize(planes, self.image_spec))
        real, scene = grid[: len(rows)], grid[len(rows) :]
        if len(rows) and options.captions:
            captions = [some(self._real.tokens[row], options.captions) for row in rows]
            parts["captions"] = self._caption_loss(real, captions, options.label_smoothing, options.word_dropout)
        if len(chosen):
            if options.sentences:
                sentences = [[self._sentences[i]] for i in chosen]
                parts["sentences"] = options.sentences * self._caption_loss(scene, sentences)
            attributes = torch.from_numpy(self._scenes.attributes[chosen])
            parts["attributes"] = 0.3 * self.heads.attribute_loss(scene, attributes)
        return parts

    def _real_views(self) -> tuple[Any, Tensor]:
        """Indices of real images (B,), and augmented views of them: planes (B, 3, S, S) from 0 to 1."""
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
        """As `_real_views`, of synthetic images."""
        chosen = torch.randperm(len(self._sentences))[: self.options.scenes].numpy()
        boxes, mirrored = small_shifts(len(chosen), 0.06), torch.rand(len(chosen)) < 0.5
        return chosen, color_jitter(crop(np.asarray(self._scenes.pixels[chosen]), boxes, mirrored, self._side), 0.35)

    def _forced_share(self) -> float:
        """The share of the images for which a stage gets the teacher's map as its input."""
        return max(0.0, 1 - self.step / max(1, self.options.teacher_forcing * self.options.steps))

    def _run_stages(self, planes: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
        """The output (B, C, h, w) of each stage. For a share of the images, the next stage gets the teacher's map."""
        encoder = self._encoder
        assert isinstance(encoder, StagedEncoder)  # noqa: S101  checked by the constructor
        share, grid, outputs = self._forced_share(), encoder.stem_output(planes), []
        for stage, target in zip(encoder.stages, maps, strict=True):
            output = stage(grid)
            outputs.append(output)
            is_forced = (torch.rand(len(output)) < share).view(-1, 1, 1, 1)
            count = target.shape[1]
            grid = torch.cat((torch.where(is_forced, target, output[:, :count]), output[:, count:]), 1)
        return outputs


def _bytes(planes: Tensor) -> Any:
    """(B, 3, S, S) from 0 to 1 → uint8 (B, S, S, 3)."""
    return (planes * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
