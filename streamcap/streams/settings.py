"""`StreamSettings`: what one stream may set for itself, checked once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, get_args

from streamcap.errors import InputError
from streamcap.media.demand import Decode as Decode
from streamcap.media.mask import Mask, Polygon

MIN_EVERY, MAX_EVERY = 0.02, 3600.0
MAX_MODEL_CHARACTERS = 256
MAX_PROMPT_CHARACTERS = 4000
MAX_POLYGONS, MIN_POINTS, MAX_POINTS = 32, 3, 128
MAX_LABELS, MAX_LABEL_CHARACTERS = 16, 128
LABEL_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,31}"


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Settings of one stream. None: the default of the service."""

    every: float | None = None
    """Seconds between captions."""
    model: str | None = None
    """Name of one of the service's models."""
    prompt: str | None = None
    """For models that take one."""
    mask: Mask | None = None
    """Polygons that nobody may see: neither the model nor a viewer."""
    decode: Decode | None = None
    """Which frames of a camera to decode."""
    min_confidence: float | None = None
    """Captions whose confidence (0 to 1) is lower are not published."""
    labels: Mapping[str, str] | None = None
    """Words of the user's own about the stream, such as {"site": "north"}. Read-only."""

    def __post_init__(self) -> None:
        """Raises InputError, which begins with the name of the field."""
        if self.every is not None:
            check_every(self.every)
        if self.model is not None:
            _check_text("model", self.model, MAX_MODEL_CHARACTERS)
        if self.prompt is not None:
            _check_text("prompt", self.prompt, MAX_PROMPT_CHARACTERS, lines=True)
        if self.decode not in (None, *get_args(Decode)):
            raise InputError(f"decode {str(self.decode)[:40]!r}: use {', '.join(get_args(Decode))}")
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise InputError(f"min_confidence {self.min_confidence:g}: must be 0 to 1")
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask))
        if self.labels is not None:
            object.__setattr__(self, "labels", _checked_labels(self.labels))

    def as_json(self) -> dict[str, Any]:
        """The settings that are set, as JSON values. `StreamSettings(**as_json())` gives the same settings."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.mask is not None:
            values["mask"] = [[list(point) for point in polygon] for polygon in self.mask]
        if self.labels is not None:
            values["labels"] = dict(self.labels)
        return {name: value for name, value in values.items() if value is not None}


def check_every(every: float) -> float:
    """Return `every` (seconds between captions of a stream) if it is in range. Raises InputError."""
    if not MIN_EVERY <= every <= MAX_EVERY:
        raise InputError(f"every {every:g}: must be {MIN_EVERY:g} to {MAX_EVERY:g} seconds between captions")
    return every


def _check_text(field: str, text: str, max_characters: int, *, lines: bool = False) -> None:
    if not text.strip() or len(text) > max_characters:
        raise InputError(f"{field}: use 1 to {max_characters} characters")
    if not all(letter.isprintable() or (lines and letter in "\n\t") for letter in text):
        raise InputError(f"{field} {text[:40]!r}: contains a control character")


def _checked_mask(mask: Mask) -> Mask:
    """`mask` as tuples of floats; any sequences will do, so that JSON can be given as it is."""
    if not 1 <= len(mask) <= MAX_POLYGONS:
        raise InputError(f"mask: use 1 to {MAX_POLYGONS} polygons")
    return tuple(_checked_polygon(number, polygon) for number, polygon in enumerate(mask, 1))


def _checked_polygon(number: int, polygon: Polygon) -> Polygon:
    if not MIN_POINTS <= len(polygon) <= MAX_POINTS:
        raise InputError(f"mask: polygon {number} has {len(polygon)} points; use {MIN_POINTS} to {MAX_POINTS}")
    points = []
    for point in polygon:
        if len(point) != 2 or not all(math.isfinite(value) and 0 <= value <= 1 for value in point):
            raise InputError(f"mask: polygon {number}: a point is [x, y], each 0 to 1 of the image, not {point}")
        points.append((float(point[0]), float(point[1])))
    return tuple(points)


def _checked_labels(labels: Mapping[str, str]) -> Mapping[str, str]:
    if len(labels) > MAX_LABELS:
        raise InputError(f"labels: at most {MAX_LABELS}")
    for name, value in labels.items():
        if not re.fullmatch(LABEL_NAME, name):
            raise InputError(f"labels: {name[:40]!r}: use up to 32 letters, digits and '_', not beginning with a digit")
        _check_text(f"labels: {name}", value, MAX_LABEL_CHARACTERS)
    return MappingProxyType(dict(labels))
