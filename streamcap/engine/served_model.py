"""`ServedModel`: a model of the service as a stream sees it, and `ServedModels`: all of them by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from streamcap.errors import InputError
from streamcap.media.frame import Frame, Pixels, SampledImage


def no_images(frames: list[Frame]) -> tuple[SampledImage, ...]:
    """Local models take their pixels only."""
    return ()


def no_notice() -> str:
    return ""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Its functions may be called from any thread."""

    name: str
    description: str
    """One line: its name and what it is for."""
    clip_length: int | None
    """Frames of a sample, spread over `clip_seconds`; None: only the newest frame."""
    convert: Callable[[list[Frame]], Pixels]
    """Frames, oldest first → the pixels that a local model embeds. Raises av.FFmpegError, ValueError."""
    encoder: str | None = None
    """The local model that embeds the pixels, if it is another one: of a remote model."""
    images: Callable[[list[Frame]], tuple[SampledImage, ...]] = no_images
    """Frames, oldest first → the images for a remote model. Raises as `convert`."""
    notice: Callable[[], str] = no_notice
    """Why another model captions instead of this one at present; empty if none does."""


class ServedModels:
    """Any thread may look up. `default` is the model of streams that name none."""

    def __init__(self, models: Iterable[ServedModel], default: str) -> None:
        self._models = {model.name: model for model in models}
        self.default = default
        self.get(default)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._models)

    def get(self, name: str | None) -> ServedModel:
        """The model called `name`; None: the default. Raises InputError."""
        model = self._models.get(self.default if name is None else name)
        if model is None:
            raise InputError(f"model {str(name)[:80]!r}: this service has {', '.join(self._models)}")
        return model

    def remove(self, name: str) -> None:
        """Remove a model that no stream uses."""
        self._models = {other: model for other, model in self._models.items() if other != name}

    def add(self, model: ServedModel) -> None:
        """Add a model, or replace the one of that name for all later samples."""
        self._models = {**self._models, model.name: model}
