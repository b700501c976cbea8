"""Training a whole captioner of ours: vision encoder, mapping and GPT-2 at once, on real and on drawn pictures.

What is minimised, for a batch of both kinds:
- how far each leg of the encoder is from the teacher's map at that depth. Teacher and encoder look at the very same
  view, recoloured and mixed with another's as it is: the teacher must be consistent (Beyer et al. 2022, "Knowledge
  distillation: A good teacher is patient and consistent"). At first each leg is given the teacher's map and not the
  leg's before it, so that all legs learn at once;
- of real pictures the cross-entropy of their captions;
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

from streamcap.captioner.compact import RelayEncoder
from streamcap.errors import InputError
from streamcap.picture import PictureSpec
from streamcap.training import drawn
from streamcap.training.heads import Norms
from streamcap.training.stage import StageSettings, StageTrainer, some
from streamcap.training.teacher import LooksAtPictures
from streamcap.training.views import crop, disturb, normalise, random_boxes, small_shifts, whole

NORM_PICTURES = 300
"""Real pictures over which the teacher's channels are brought to one scale."""
INNER = 0.2
"""Weight of the legs before the last once they are led by one another: the last one's map is what is wanted."""


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
    """Weight of the teacher's part of the loss; 0: without."""
    forced: float = 0.4
    """Share of the steps over which the legs go from the teacher's maps to one another's."""
    least: float = 0.25
    """Smallest part of a real picture that a view shows; a third of the views show all."""
    mixed: float = 0.0
    """Share of the views that have another laid over them (Zhang et al. 2018), which no caption is true of."""
    sentences: float = 0.5
    """Weight of the drawn scenes' sentences; 0: what the scenes show is learned without GPT-2."""
    speaker_learns: bool = True
    """False: GPT-2 stays as it is, and what captions ask is asked of the mapping and the encoder alone."""


@dataclass(frozen=True, slots=True)
class RealPictures:
    """n training pictures and the tokens of their captions."""

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    tokens: list[list[list[int]]]


class JointTrainer(StageTrainer):
    """Encoder, mapping and GPT-2 at once. teacher None: the encoder learns from captions and scenes alone. Raises
    InputError where the teacher and the encoder have not as many maps."""

    settings: JointSettings

    def __init__(
        self,
        config: Mapping[str, Any],
        picture: PictureSpec,
        settings: JointSettings,
        real: RealPictures,
        scenes: drawn.DrawnPictures,
        sentences: list[list[int]],
        stop: int,
        teacher: LooksAtPictures | None,
    ) -> None:
        super().__init__(config, picture, settings, stop=stop)
        self.model.gpt.requires_grad_(settings.speaker_learns)
        self._real, self._scenes, self._sentences = real, scenes, sentences
        self._teacher = teacher if settings.teach else None
        if self._teacher is None:
            return
        chosen = np.linspace(0, len(real.pixels) - 1, min(NORM_PICTURES, len(real.pixels))).astype(np.int64)
        planes = crop(real.pixels[chosen], whole(len(chosen)), torch.zeros(len(chosen), dtype=torch.bool), self._side)
        look = self._teacher.look(_bytes(planes))
        self._norms = Norms(look)
        legs = list(self._encoder.legs) if isinstance(self._encoder, RelayEncoder) else []
        if len(legs) != len(look.maps):
            raise InputError(f"the teacher has {len(look.maps)} maps to follow and the encoder {len(legs)} legs")

    @property
    def _side(self) -> int:
        return self.picture.width

    @property
    def _encoder(self) -> nn.Module:
        assert self.model.vision is not None  # noqa: S101  a joint model always has one
        return self.model.vision

    def _learning(self) -> Iterable[tuple[str, nn.Parameter]]:
        learning = [*self.model.named_parameters(), *self.heads.named_parameters()]
        return learning if self.settings.speaker_learns else [one for one in learning if not one[0].startswith("gpt.")]

    def _losses(self, told: dict[str, float]) -> dict[str, Tensor]:
        settings = self.settings
        rows, real_planes = self._real_views()
        chosen, drawn_planes = self._drawn_views()
        planes = torch.cat((real_planes, drawn_planes))
        parts: dict[str, Tensor] = {}
        if self._teacher is not None:
            look = self._norms(self._teacher.look(_bytes(planes)))
            legs = self._run_legs(normalise(planes, self.picture), look.maps)
            inner = max(INNER, self._forced())
            parts |= {name: settings.teach * part for name, part in self.heads.followed(legs, look, inner).items()}
            grid = legs[-1].flatten(2).transpose(1, 2)
        else:
            grid = self._encoder(normalise(planes, self.picture))
        real, scene = grid[: len(rows)], grid[len(rows) :]
        if len(rows) and settings.captions:
            captions = [some(self._real.tokens[row], settings.captions) for row in rows]
            parts["captions"] = self._caption_loss(real, captions, settings.smoothing, settings.word_dropout)
        if len(chosen):
            if settings.sentences:
                said = [[self._sentences[i]] for i in chosen]
                parts["sentences"] = settings.sentences * self._caption_loss(scene, said)
            parts["shown"] = 0.3 * self.heads.shown_loss(scene, torch.from_numpy(self._scenes.attributes[chosen]))
        return parts

    def _real_views(self) -> tuple[Any, Tensor]:
        """Indices, and planes (B, 3, S, S)."""
        settings = self.settings
        if not settings.real:
            return np.zeros(0, np.int64), torch.zeros(0, 3, self._side, self._side)
        rows = self._next_rows(settings.real, len(self._real.pixels))
        count = len(rows)
        boxes = torch.where(torch.rand(count, 1) < 1 / 3, whole(count), random_boxes(count, settings.least))
        planes = crop(np.asarray(self._real.pixels[rows]), boxes, torch.rand(count) < 0.5, self._side)
        planes = disturb(planes, 0.8)
        over = torch.where(torch.rand(count) < settings.mixed, 0.5 * torch.rand(count), torch.zeros(count))
        return rows, torch.lerp(planes, planes[torch.randperm(count)], over.view(-1, 1, 1, 1))

    def _drawn_views(self) -> tuple[Any, Tensor]:
        chosen = torch.randperm(len(self._sentences))[: self.settings.scenes].numpy()
        boxes, mirrored = small_shifts(len(chosen), 0.06), torch.rand(len(chosen)) < 0.5
        return chosen, disturb(crop(np.asarray(self._scenes.pixels[chosen]), boxes, mirrored, self._side), 0.35)

    def _forced(self) -> float:
        """The share of the pictures of which a leg is given the teacher's map."""
        return max(0.0, 1 - self.step / max(1, self.settings.forced * self.settings.steps))

    def _run_legs(self, planes: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
        """What each leg makes of the one before it, or, of the pictures whose turn it is, of the teacher's map."""
        encoder = self._encoder
        assert isinstance(encoder, RelayEncoder)  # noqa: S101  asked when it was built
        share, grid, legs = self._forced(), encoder.before(planes), []
        for leg, said in zip(encoder.legs, maps, strict=True):
            made = leg(grid)
            legs.append(made)
            forced = (torch.rand(len(made)) < share).view(-1, 1, 1, 1)
            count = said.shape[1]
            grid = torch.cat((torch.where(forced, said, made[:, :count]), made[:, count:]), 1)
        return legs


def _bytes(planes: Tensor) -> Any:
    """(B, 3, S, S) from 0 to 1 → uint8 (B, S, S, 3)."""
    return (planes * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
