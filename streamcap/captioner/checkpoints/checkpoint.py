"""What every family hands to the Captioner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.prompt import Prompter
from streamcap.captioner.models.vit import Output

if TYPE_CHECKING:
    from streamcap.captioner.grounding import Grounding
    from streamcap.captioner.models.vision import Vision


@dataclass(frozen=True, slots=True)
class EmbeddingShape:
    """What the prompter takes for one caption."""

    width: int
    axes: tuple[int, ...] = (1,)
    """How many axes one caption's embedding may have: 1 for (C,), 2 for (T, C) or (N, C)."""
    count: int | None = None
    """T or N where it is fixed."""


@dataclass(frozen=True, slots=True)
class VisionTowerRef:
    """The vision tower a checkpoint without one was trained on."""

    output: Output
    """`projected` (CLIP's image embedding) or `pooled` (its `pooler_output`)."""
    name: str | None
    """Where it is found; None: it cannot be."""
    reason: str = ""
    """Why there is none, in a line."""
    fingerprint: str | None = None
    """`vision.fingerprint` of it, where that is known."""


@dataclass(slots=True)
class Checkpoint:
    """A loaded checkpoint of any family, on the CPU in float32."""

    family: str
    path: Path
    gpt2: GPT2
    prompter: Prompter
    embedding: EmbeddingShape
    stop_tokens: frozenset[int]
    max_tokens: int
    clip_length: int | None = None
    vision: Vision | None = None
    vision_ref: VisionTowerRef | None = None
    tokenizer: Path | None = None
    """A directory or file that holds it; None: `tokenizer_name` is looked for."""
    grounding: Grounding | None = None
    """What the tags of an image deny, of checkpoints that have tags."""
    tokenizer_name: str = "openai-community/gpt2"
