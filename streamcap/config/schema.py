"""`file_schema`: the configuration file as a pydantic model, made of the options of `streamcap serve` and `node`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from streamcap.config.stream_fields import StreamFields, no_switch
from streamcap.engine.model_settings import KEY_VARIABLE, ModelSettings

NOT_YET = ("alerts", "mqtt", "history")
"""Sections of a later version."""
_FORBID = ConfigDict(extra="forbid", protected_namespaces=())
_MODEL_HELP = {
    "model": "A name (see `streamcap models`), file, directory or hub OWNER/NAME; or openai:MODEL with url.",
    "url": "Base URL of the server of an openai: model, such as http://127.0.0.1:11434/v1.",
    "prompt": "The prompt; a stream may have its own.",
    "fallback": "Name of the local model that captions while the server fails.",
    "in_flight": "Maximum requests at a time.",
    "frames": "Images in one request.",
    "context": "Whether a request quotes the last caption of the stream.",
    "image_size": "Longer side of an image in pixels.",
    "timeout": "Seconds for a whole answer.",
}


@dataclass(frozen=True, slots=True)
class Flag:
    """One option of `streamcap serve` or `node`, which is a key of a section of the file."""

    name: str
    """With underscores: stall_after."""
    annotation: Any
    """Its type, such as `float | None` or `list[str] | None`."""
    help: str
    minimum: float | None = None
    maximum: float | None = None
    section: str = "server"


class StreamEntry(StreamFields):
    """One stream."""

    url: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2048,
            description="A camera's address, a file, webcam:, whip: or scenes:.",
            examples=["rtsp://user:${DOOR_PASSWORD}@192.168.1.20/stream"],
        ),
    ]


class ModelEntry(BaseModel):
    """One model."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    key_env: Annotated[
        str | None,
        Field(description=f"Environment variable with the key of an openai: model; default {KEY_VARIABLE}."),
    ] = None
    key_file: Annotated[str | None, Field(description="File with the key.")] = None


def model_entry() -> type[ModelEntry]:
    """`ModelEntry` with the fields of `ModelSettings`."""
    hints = get_type_hints(ModelSettings)
    entries: dict[str, Any] = {
        field.name: (
            _plain(hints[field.name]),
            Field(
                default=... if field.name == "model" else None if field.default is MISSING else field.default,
                description=_MODEL_HELP.get(field.name),
            ),
        )
        for field in fields(ModelSettings)
        if field.name != "key"
    }
    return create_model("Model", __base__=ModelEntry, **entries)


def file_schema(flags: Sequence[Flag]) -> type[BaseModel]:
    """The model of a whole file, whose sections `server` and `cluster` have one key for each of their `flags`."""
    models: Any = dict[str, model_entry()]  # type: ignore[misc]
    server: Any = _section("Server", [flag for flag in flags if flag.section == "server"])
    cluster: Any = _section("Cluster", [flag for flag in flags if flag.section == "cluster"])
    return create_model(
        "Configuration",
        __config__=_FORBID,
        server=(
            server | None,
            Field(default=None, description="Options of `streamcap serve` and `node`, with underscores."),
        ),
        cluster=(
            cluster | None,
            Field(default=None, description="Options of `streamcap node` alone, with underscores."),
        ),
        models=(models | None, Field(default=None, description="Models by name, for `model` of server and streams.")),
        streams=(dict[str, StreamEntry] | None, Field(default=None, description="Streams by name.")),
    )


def _section(name: str, flags: Sequence[Flag]) -> type[BaseModel]:
    entries: dict[str, Any] = {
        flag.name: (
            Annotated[_plain(flag.annotation), Field(ge=flag.minimum, le=flag.maximum)]
            if flag.minimum is not None or flag.maximum is not None
            else _plain(flag.annotation),
            Field(default=None, description=flag.help),
        )
        for flag in flags
    }
    return create_model(name, __config__=_FORBID, **entries)


def _plain(annotation: Any) -> Any:
    """`annotation` as a JSON value: a switch is not a number."""
    if annotation in (int, float, int | None, float | None):
        return Annotated[annotation, BeforeValidator(no_switch)]
    return annotation
