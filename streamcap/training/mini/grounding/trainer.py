"""Training of a captioner whose mapping has tag heads: encoder, heads, mapping and GPT-2 at once, on three domains.

What is minimized, for a batch of real images of all sources, drawn scenes and sentences without an image:
- of every image the binary cross-entropy of its tags, what is unknown left out, and the divergence from a teacher's
  ImageNet classes, both known before training (no teacher runs beside it);
- of images the cross-entropy of a caption by a person, or of one made of their tags;
- of drawn scenes the cross-entropy of their sentence;
- of sentences their cross-entropy behind a prefix of their tags alone, some dropped and some wrong, as the heads err.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.captioner.models.mini_encoder import TaggedMapping
from streamcap.image_spec import ImageSpec
from streamcap.training.data.arrays import JoinedArrays
from streamcap.training.mini.augment import (
    color_jitter,
    crop,
    distant_boxes,
    normalize,
    random_boxes,
    small_shifts,
    whole,
)
from streamcap.training.mini.stages.stage import StageOptions, StageTrainer, some
from streamcap.training.mini.synthetic import DrawnPictures

Rows = npt.NDArray[np.int64]

IMAGENET_CLASSES = 1000
MOST_DISTANT = 1.7
"""Times an image's sides that a distant view shows."""
MOST_TURNED = 0.3
"""Radians."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedSettings(StageOptions):
    """One stage."""

    real_batch: int
    """Real images a step."""
    synthetic_batch: int
    """Drawn scenes a step."""
    text_batch: int
    """Sentences without an image a step."""
    captioned_share: float | None = None
    """Of the real images, those that people captioned; None: as often as `ImageSet.chances` says."""
    captions: int = 5
    """Captions by people of an image that are used at once; of those made of tags one."""
    label_smoothing: float = 0.1
    min_crop_area: float = 0.45
    """Smallest part of an image that a view shows; half of the views show all."""
    distant_share: float = 0.0
    """Of the views: as a fixed camera sees things, from further away and turned by up to a fifth of a right angle."""
    tag_weight: float = 0.06
    """Of the summed cross-entropy of an image's tags."""
    imagenet_weight: float = 0.1
    pseudo_weight: float = 0.5
    """Of captions made of tags."""
    synthetic_weight: float = 0.5
    text_weight: float = 0.4
    train_encoder: bool = True
    train_decoder: bool = True


@dataclass(frozen=True, slots=True)
class ImageSet:
    """n images of all sources and what is known of each."""

    pixels: npt.NDArray[np.uint8] | JoinedArrays
    values: npt.NDArray[np.float16]
    """(n, K), see `tags.Targets`."""
    weights: npt.NDArray[np.float16]
    imagenet: npt.NDArray[np.float16]
    """(n, 1000) the teacher's probabilities; all zeros where it was not asked."""
    tokens: list[list[list[int]]]
    """Captions; none where nothing can be said."""
    captioned: npt.NDArray[np.bool_]
    """(n,) whether people wrote them."""
    main: npt.NDArray[np.int64]
    """(n,) the number of the main object's class, -1 where it is not known."""
    chances: npt.NDArray[np.float64]
    """(n,) how often each is drawn, relative to others."""
    rendered: int = 0
    """How many of them, the last ones, are renders."""


@dataclass(frozen=True, slots=True)
class SyntheticSet:
    """Drawn scenes, their sentences' tokens and their tags."""

    images: DrawnPictures
    tokens: list[list[int]]
    values: npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class TextSet:
    """Sentences without images: their tokens, and by sentence the indices of its tags."""

    tokens: list[list[int]]
    tags: list[list[int]]


class GroundedHeads(nn.Module):
    """The head that only training needs: ImageNet's classes, from what the tag heads see."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.imagenet = nn.Linear(2 * hidden, IMAGENET_CLASSES)


class GroundedTrainer(StageTrainer):
    """One stage on images, drawn scenes and text."""

    options: GroundedSettings

    def __init__(
        self,
        config: Mapping[str, Any],
        image: ImageSpec,
        options: GroundedSettings,
        images: ImageSet,
        synthetic: SyntheticSet,
        text: TextSet,
        stop: int,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(config, image, options, stop=stop)
        self.device = device or torch.device("cpu")
        # In place: the optimizers hold the same parameters.
        for module in (self.model, self.ema, self.heads):
            module.to(self.device)
        if self.model.vision is not None:
            self.model.vision.requires_grad_(options.train_encoder)
        self.model.gpt.requires_grad_(options.train_decoder)
        self._images, self._synthetic, self._text = images, synthetic, text
        self._chances = torch.from_numpy(images.chances)

    def _make_heads(self, config: Mapping[str, Any]) -> GroundedHeads:
        return GroundedHeads(int(config["mapping"]["hidden"]))

    def _learning(self) -> Iterable[tuple[str, nn.Parameter]]:
        parts = {"vision.": self.options.train_encoder, "gpt.": self.options.train_decoder}
        frozen = tuple(name for name, learning in parts.items() if not learning)
        learning = [*self.model.named_parameters(), *self.heads.named_parameters()]
        return [one for one in learning if not one[0].startswith(frozen)] if frozen else learning

    @property
    def _mapping(self) -> TaggedMapping:
        mapping = self.model.mapping
        assert isinstance(mapping, TaggedMapping)  # noqa: S101  what the recipe's config says
        return mapping

    def _losses(self, measured: dict[str, float]) -> dict[str, Tensor]:
        options = self.options
        rows, chosen, grid = self._batch()
        seen = self._mapping.tag_heads.summarize(grid)
        logits = self._mapping.tag_heads.logits(seen)
        parts = {"tags": options.tag_weight * self._tag_loss(logits, rows, chosen)}
        parts["imagenet"] = options.imagenet_weight * self._imagenet_loss(seen[: len(rows)], rows)
        prefix = self._mapping.mapped(grid, logits)
        parts |= self._caption_parts(rows, prefix[: len(rows)], measured)
        if len(chosen):
            said = [[self._synthetic.tokens[row]] for row in chosen]
            parts["sentences"] = options.synthetic_weight * self._prefix_loss(prefix[len(rows) :], said)
        if options.text_batch and self._text.tokens:
            parts["text"] = options.text_weight * self._text_loss()
        return parts

    def _batch(self) -> tuple[Rows, Rows, Tensor]:
        """Which images and which drawn scenes, and their grids (B, N, C), the images' first."""
        rows, real = self._real_views()
        chosen, drawn = self._synthetic_views()
        return rows, chosen, self._encode(torch.cat((real, drawn)))

    def _caption_parts(self, rows: Rows, prefix: Tensor, measured: dict[str, float]) -> dict[str, Tensor]:
        """What captions of the images say of their prefixes (B, P, E)."""
        options, parts = self.options, {}
        captions = [some(self._images.tokens[row], self._caption_count(row)) for row in rows]
        has_caption = np.array([bool(one) for one in captions])
        human = self._images.captioned[rows] & has_caption
        for name, mask, weight in (("captions", human, 1.0), ("pseudo", has_caption & ~human, options.pseudo_weight)):
            if mask.any():
                picked = np.flatnonzero(mask)
                loss = self._prefix_loss(
                    prefix[picked], [captions[k] for k in picked], options.label_smoothing, options.word_dropout
                )
                parts[name] = weight * loss
        return parts

    def _caption_count(self, row: int) -> int:
        return self.options.captions if self._images.captioned[row] else 1

    def _encode(self, planes: Tensor) -> Tensor:
        vision = self.model.vision
        assert vision is not None  # noqa: S101  a stage's model always has one
        learning = self.options.train_encoder
        vision.train(learning)
        with torch.set_grad_enabled(learning):
            grid: Tensor = vision(normalize(planes, self.image_spec).to(self.device))
        return grid

    def _real_views(self) -> tuple[Rows, Tensor]:
        count = self.options.real_batch
        rows = self._draw_rows(count)
        boxes = torch.where(torch.rand(count, 1) < 0.5, whole(count), random_boxes(count, self.options.min_crop_area))
        distant = torch.rand(count) < self.options.distant_share
        boxes = torch.where(distant[:, None], distant_boxes(count, MOST_DISTANT), boxes)
        turn = torch.where(distant, torch.empty(count).uniform_(-MOST_TURNED, MOST_TURNED), torch.zeros(count))
        pixels = np.asarray(self._images.pixels[rows])
        planes = crop(pixels, boxes, torch.rand(count) < 0.5, self.image_spec.width, turn)
        return rows, color_jitter(planes, 0.8)

    def _draw_rows(self, count: int) -> Rows:
        share = self.options.captioned_share
        if share is None:
            return np.sort(torch.multinomial(self._chances, count).numpy())
        captioned = torch.from_numpy(self._images.captioned)
        first = round(share * count)
        parts = [
            torch.multinomial(self._chances * mask, some)
            for mask, some in ((captioned, first), (~captioned, count - first))
            if some
        ]
        return np.sort(torch.cat(parts).numpy())

    def _synthetic_views(self) -> tuple[Rows, Tensor]:
        images, side = self._synthetic.images, self.image_spec.width
        count = self.options.synthetic_batch
        if not count:
            return np.zeros(0, np.int64), torch.zeros(0, 3, side, side)
        chosen = np.sort(torch.randint(len(self._synthetic.tokens), (count,)).numpy())
        planes = crop(np.asarray(images.pixels[chosen]), small_shifts(count, 0.06), torch.rand(count) < 0.5, side)
        return chosen, color_jitter(planes, 0.35)

    def _tag_loss(self, logits: Tensor, rows: Rows, chosen: Rows) -> Tensor:
        """Cross-entropy of tags, summed over an image's, by the mean of images."""
        drawn = self._synthetic.values[chosen]
        values = torch.from_numpy(np.concatenate((self._images.values[rows], drawn)).astype(np.float32))
        weights = torch.from_numpy(np.concatenate((self._images.weights[rows], np.ones_like(drawn))).astype(np.float32))
        values, weights = values.to(self.device), weights.to(self.device)
        loss = F.binary_cross_entropy_with_logits(logits, values, weights, reduction="sum")
        return loss / len(logits)

    def _imagenet_loss(self, seen: Tensor, rows: Rows) -> Tensor:
        truth = torch.from_numpy(self._images.imagenet[rows].astype(np.float32))
        known = truth.sum(1) > 0
        if not bool(known.any()):
            return seen.sum() * 0
        truth = (truth[known] / truth[known].sum(1, keepdim=True)).to(self.device)
        logits = self.heads.imagenet(seen[known])
        return -(truth * F.log_softmax(logits, -1)).sum(1).mean()

    def _text_loss(self) -> Tensor:
        count = self.options.text_batch
        rows = torch.randint(len(self._text.tokens), (count,)).tolist()
        tags = torch.zeros(count, self._images.values.shape[1])
        for number, row in enumerate(rows):
            known = torch.tensor(self._text.tags[row], dtype=torch.long)
            tags[number, known[torch.rand(len(known)) > 0.15]] = 1
        # As the heads say it: nothing is certain, and now and then something is wrong.
        wrong = torch.rand(tags.shape) < 0.3 / tags.shape[1]
        tags = torch.where(tags > 0, 0.4 + 0.6 * torch.rand(tags.shape), 0.02 * torch.rand(tags.shape))
        tags = torch.where(wrong, 0.5 * torch.rand(tags.shape), tags)
        return self._prefix_loss(
            self._mapping.text_prefix(tags.to(self.device)), [[self._text.tokens[row]] for row in rows]
        )
