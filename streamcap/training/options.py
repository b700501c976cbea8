"""Options of a training run, and the presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from streamcap.errors import InputError

MappingName = Literal["mlp", "transformer", "pooled", "video-transformer", "video-cross", "video-mlp", "grid"]
"""Two of ClipCap, one of VideoCaptionerWithClip, three of NYU's video captioner, and streamcap's `grid`."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Options of one run over a feature cache, checked on construction. A run resumes only with equal options.

    Raises InputError for a value out of range.
    """

    mapping: MappingName = "mlp"
    gpt2: str = "openai-community/gpt2"
    """Directory or hub name of the GPT-2 to start from; `fresh`: random weights and a vocabulary from the captions."""
    train_gpt2: bool = True
    """False: only the mapping is trained."""
    prefix: int = 10
    """Positions of the prefix."""
    mapper_layers: int = 8
    mapper_heads: int = 8
    embedding_positions: int = 10
    """Mapping `transformer`: positions that one embedding expands to (ClipCap's `prefix_length_clip`)."""
    epochs: int = 10
    batch: int = 32
    """Images per batch."""
    captions: int = 5
    """Captions per image and epoch; sampled if an image has more."""
    grad_accum: int = 1
    """Batches per optimizer step; their gradients are averaged."""
    learning_rate: float = 2e-5
    warmup: int = 500
    """Steps of linear warm-up; then the learning rate follows a cosine to 0."""
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    dropout: float = 0.1
    clip_norm: float = 1.0
    seed: int = 0
    vocabulary: int = 3000
    """`gpt2="fresh"`: vocabulary size."""
    width: int = 256
    """`gpt2="fresh"`: width; a multiple of 64."""
    layers: int = 4
    """`gpt2="fresh"`: number of layers."""
    max_tokens: int = 40
    """Maximum number of tokens of a caption, in training and in the checkpoint."""

    def __post_init__(self) -> None:
        if self.mapping not in get_args(MappingName):
            raise InputError(f"mapping {self.mapping!r}: must be one of {', '.join(get_args(MappingName))}")
        for name in (
            "prefix", "mapper_layers", "mapper_heads", "embedding_positions", "epochs", "batch", "captions",
            "grad_accum", "width", "layers", "max_tokens",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: must be at least 1")
        if not 300 <= self.vocabulary <= 100_000:
            raise InputError(f"vocabulary {self.vocabulary}: must be between 300 and 100000")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning_rate {self.learning_rate}: must be above 0 and below 1")
        for name in ("label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: must be at least 0 and below 1")
        if self.warmup < 0 or self.weight_decay < 0 or self.clip_norm <= 0:
            raise InputError("warmup and weight_decay must be at least 0, clip_norm above 0")

    def to_json(self) -> dict[str, Any]:
        """The options as stored in settings.json of a run."""
        return asdict(self)

    def changed(self, **given: Any) -> TrainOptions:
        """A copy with the values of `given` that are not None."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def difference(self, other: dict[str, Any]) -> str | None:
        """Describe the first option that differs from the stored options `other`; None if all are equal."""
        for field in fields(self):
            value, stored = getattr(self, field.name), other.get(field.name)
            if value != stored:
                return f"{field.name} is {stored!r} in the run and {value!r} now"
        return None


PRESETS: dict[str, TrainOptions] = {
    "b32-gpt2": TrainOptions(),
    "b32-gpt2-transformer": TrainOptions(mapping="transformer", train_gpt2=False),
    "b32-gpt2-video": TrainOptions(mapping="video-transformer", prefix=20, max_tokens=10),
    "b32-gpt2-pooled": TrainOptions(mapping="pooled", prefix=4, mapper_layers=6, mapper_heads=16),
    "l14-gpt2-medium": TrainOptions(
        mapping="pooled", gpt2="openai-community/gpt2-medium", prefix=4, mapper_layers=5, mapper_heads=16
    ),
    "small": TrainOptions(
        mapping="grid",
        gpt2="fresh",
        mapper_layers=2,
        mapper_heads=4,
        learning_rate=6e-4,
        warmup=200,
        label_smoothing=0.1,
        dropout=0.2,
    ),
}
"""The published model sizes, and `small`, which needs no download."""


def preset(name: str) -> TrainOptions:
    """The options of a preset. Raises InputError for an unknown name."""
    if name not in PRESETS:
        raise InputError(f"preset {name!r} is unknown; known: {', '.join(PRESETS)}")
    return PRESETS[name]
