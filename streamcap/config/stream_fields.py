"""`StreamFields`: the settings of a stream as JSON or YAML, in the configuration file and over HTTP."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from streamcap.streams.settings import (
    MAX_EVERY,
    MAX_LABEL_CHARACTERS,
    MAX_LABELS,
    MAX_MODEL_CHARACTERS,
    MAX_POINTS,
    MAX_POLYGONS,
    MAX_PROMPT_CHARACTERS,
    MIN_EVERY,
    MIN_POINTS,
    Decode,
    StreamSettings,
)


def no_switch(value: Any) -> Any:
    """`true` is not the number 1."""
    if isinstance(value, bool):
        raise ValueError("use a number")
    return value


Number = Annotated[float, BeforeValidator(no_switch)]
Coordinate = Annotated[Number, Field(ge=0, le=1, allow_inf_nan=False)]
JsonPoint = Annotated[list[Coordinate], Field(min_length=2, max_length=2)]
JsonPolygon = Annotated[list[JsonPoint], Field(min_length=MIN_POINTS, max_length=MAX_POINTS)]


def _as_polygons(mask: Any) -> Any:
    """One polygon may be written without a list around it."""
    try:
        return [mask] if isinstance(mask[0][0], int | float) else mask
    except (TypeError, LookupError):
        return mask


JsonMask = Annotated[
    list[JsonPolygon],
    Field(min_length=1, max_length=MAX_POLYGONS),
    BeforeValidator(_as_polygons, json_schema_input_type=list[JsonPolygon] | JsonPolygon),
]
LabelValue = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARACTERS)]


class StreamFields(BaseModel):
    """A missing field, or null, is the default of the service."""

    model_config = ConfigDict(extra="forbid")

    every: Annotated[
        Number | None, Field(ge=MIN_EVERY, le=MAX_EVERY, allow_inf_nan=False, description="Seconds between captions.")
    ] = None
    model: Annotated[
        str | None,
        Field(min_length=1, max_length=MAX_MODEL_CHARACTERS, description="Name of one of the service's models."),
    ] = None
    prompt: Annotated[
        str | None,
        Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS, description="For models that take a prompt."),
    ] = None
    mask: Annotated[
        JsonMask | None,
        Field(
            description="Polygons that neither the model nor a viewer sees; points are [x, y], each 0 to 1 of the "
            "image, from the upper left corner.",
            examples=[[[[0, 0], [0.3, 0], [0.3, 0.4]]]],
        ),
    ] = None
    decode: Annotated[Decode | None, Field(description="Which frames of a camera to decode.")] = None
    min_confidence: Annotated[
        Number | None,
        Field(ge=0, le=1, allow_inf_nan=False, description="Do not publish captions of a lower confidence."),
    ] = None
    labels: Annotated[
        dict[str, LabelValue] | None,
        Field(max_length=MAX_LABELS, description="Words of your own about the stream.", examples=[{"site": "north"}]),
    ] = None

    def settings(self, base: StreamSettings | None = None) -> StreamSettings:
        """`base`, changed by the fields that were given. Raises InputError."""
        given = {name: getattr(self, name) for name in StreamFields.model_fields if name in self.model_fields_set}
        return replace(base or StreamSettings(), **given)
