"""`Checkpoint`: a loaded checkpoint, in the same form for every family."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.prompt import Prompter
from streamcap.captioner.models.vit import Output
from streamcap.errors import InputError

if TYPE_CHECKING:
    from streamcap.captioner.grounding.grounding import Grounding
    from streamcap.captioner.models.vision import Vision


StopRule = Literal["fixed", "period", "end"]
"""What ends a caption: the checkpoint's own tokens (`fixed`), or the tokenizer's full stop or end-of-text token."""


@dataclass(frozen=True, slots=True)
class EmbeddingShape:
    """The shape of one caption's embedding, the prompter's input."""

    width: int
    axes: tuple[int, ...] = (1,)
    """Allowed numbers of axes: 1 for (C,), 2 for (T, C) or (N, C)."""
    count: int | None = None
    """T or N, if fixed."""

    def check(self, x: Tensor | npt.ArrayLike) -> Tensor:
        """`x` as float32 (B, …), on its device. Raises InputError for another shape, and for NaN and infinity."""
        try:
            array = x if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise InputError(f"embeddings: an array of numbers is expected ({error})") from None
        expected = " or ".join(
            f"(B, {self.width})" if axes == 1 else f"(B, {self.count or 'T'}, {self.width})" for axes in self.axes
        )
        if array.dim() - 1 not in self.axes or array.shape[-1] != self.width:
            raise InputError(f"embeddings have shape {tuple(array.shape)}, this model takes {expected}")
        if array.dim() == 3 and array.shape[1] != (self.count or array.shape[1]):
            raise InputError(f"embeddings have shape {tuple(array.shape)}, this model takes {expected}")
        if array.dim() == 3 and array.shape[1] == 0:
            raise InputError("embeddings contain clips without frames")
        embeddings = array.detach().to(torch.float32)
        if not bool(torch.isfinite(embeddings).all()):
            raise InputError("embeddings contain a number that is not finite")
        return embeddings


@dataclass(frozen=True, slots=True)
class VisionTowerRef:
    """The vision tower a checkpoint without one was trained on."""

    output: Output
    """`projected` (CLIP's image embedding) or `pooled` (its `pooler_output`)."""
    name: str | None
    """A directory or hub name; None: unavailable."""
    reason: str = ""
    """Why it is unavailable, in one line."""
    fingerprint: str | None = None
    """Its `vision.fingerprint`, if known."""


@dataclass(slots=True)
class Checkpoint:
    """A loaded checkpoint of any family, on the CPU in float32."""

    family: str
    path: Path
    gpt2: GPT2
    prompter: Prompter
    embedding: EmbeddingShape
    stop_tokens: frozenset[int]
    """If `stop_rule` is not `fixed`: the tokens in OpenAI's vocabulary."""
    max_tokens: int
    clip_length: int | None = None
    vision: Vision | None = None
    vision_ref: VisionTowerRef | None = None
    tokenizer: Path | None = None
    """Its directory or file; None: use `tokenizer_name`."""
    grounding: Grounding | None = None
    """Which object words an image's tags deny; None for checkpoints without tags."""
    tokenizer_name: str = "openai-community/gpt2"
    stop_rule: StopRule = "fixed"
    """How to find the stop tokens of a tokenizer other than OpenAI's."""
    own_tokenizer: str | None = None
    """Directory or hub name of the tokenizer, if the json beside the file names one."""
