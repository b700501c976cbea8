"""What a training run is asked to do, checked once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from streamcap.errors import InputError

MappingName = Literal["mlp", "transformer", "pooled", "video-transformer", "video-cross", "video-mlp", "grid"]
"""ClipCap's two, VideoCaptionerWithClip's, NYU's three, and our own."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """One run over a feature cache. A run is resumed only with the settings it was started with."""

    mapping: MappingName = "mlp"
    gpt2: str = "openai-community/gpt2"
    """A directory or hub name of a GPT-2 to start from; `fresh`: new weights and a vocabulary of our own."""
    train_gpt2: bool = True
    """False: only the mapping learns."""
    prefix: int = 10
    """Prefix positions."""
    mapper_layers: int = 8
    mapper_heads: int = 8
    clip_length: int = 10
    """ClipCap's transformer: positions one embedding becomes."""
    epochs: int = 10
    batch: int = 32
    """Images a step."""
    captions: int = 5
    """Captions of an image used at once, drawn anew each epoch where it has more."""
    grad_accum: int = 1
    """Batches whose gradients are added up before a step."""
    learning_rate: float = 2e-5
    warmup: int = 500
    """Steps of linear warm-up; then the rate follows a cosine to 0."""
    weight_decay: float = 0.01
    label_smoothing: float = 0.0
    dropout: float = 0.1
    clip_norm: float = 1.0
    seed: int = 0
    vocabulary: int = 3000
    """Fresh GPT-2: tokens."""
    width: int = 256
    """Fresh GPT-2: width."""
    layers: int = 4
    """Fresh GPT-2: layers."""
    max_tokens: int = 40
    """The most tokens of a caption when it is written."""

    def __post_init__(self) -> None:
        if self.mapping not in get_args(MappingName):
            raise InputError(f"mapping {self.mapping!r}: it is one of {', '.join(get_args(MappingName))}")
        for name in ("prefix", "mapper_layers", "mapper_heads", "clip_length", "epochs", "batch", "captions"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: it is at least 1")
        for name in ("grad_accum", "width", "layers", "max_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: it is at least 1")
        if not 300 <= self.vocabulary <= 100_000:
            raise InputError(f"vocabulary {self.vocabulary}: it is between 300 and 100000")
        if not 0 < self.learning_rate < 1:
            raise InputError(f"learning_rate {self.learning_rate}: it is above 0 and below 1")
        for name in ("label_smoothing", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: it is at least 0 and below 1")
        if self.warmup < 0 or self.weight_decay < 0 or self.clip_norm <= 0:
            raise InputError("warmup and weight_decay are at least 0, clip_norm is above 0")

    def to_json(self) -> dict[str, Any]:
        """As it stands in a run's settings.json."""
        return asdict(self)

    def changed(self, **given: Any) -> TrainOptions:
        """A copy with those of `given` that are not None."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def difference(self, other: dict[str, Any]) -> str | None:
        """The first setting in which a stored run differs, in words; None: none does."""
        for field in fields(self):
            mine, theirs = getattr(self, field.name), other.get(field.name)
            if mine != theirs:
                return f"{field.name} {theirs!r} there, {mine!r} here"
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
"""The seeds' two sizes, and a small one of ours that needs no download."""


def preset(name: str) -> TrainOptions:
    """Raises InputError for a name that is none."""
    if name not in PRESETS:
        raise InputError(f"preset {name!r} is unknown; known: {', '.join(PRESETS)}")
    return PRESETS[name]
