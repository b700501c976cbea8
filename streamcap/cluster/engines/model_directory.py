"""`ModelDirectory`: which models the engines of a cluster serve, from a bucket, and what samples they take."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from nats.errors import Error as NatsError

from streamcap.cluster.engines.messages import NO_PIXELS
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.jetstream.subjects import MODELS_BUCKET, model_key
from streamcap.cluster.log.reader import Message, StreamReader
from streamcap.engine.change_gate import ChangeGateOptions
from streamcap.engine.served_model import ServedModel, ServedModels
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec
from streamcap.media.convert import Converter

log = logging.getLogger(__name__)

_KEY_PREFIX = f"$KV.{MODELS_BUCKET}."
PUT_SECONDS = 5.0
RETRY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model as its engines describe it: what an ingest node must know to make samples for it."""

    name: str
    description: str
    image: dict[str, Any]
    """As `ImageSpec.to_json`."""
    clip_length: int | None
    gate: dict[str, float]
    """The options of the change gate, which runs at the engine."""

    @property
    def fingerprint(self) -> str:
        """Hash of all fields: engines with another one take other samples, or gate them differently."""
        return hashlib.sha256(self.as_json()).hexdigest()[:12]

    def as_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def parse(cls, body: bytes) -> ModelInfo:
        """Raises ValueError, InputError."""
        message = json.loads(body)
        try:
            clip_length, image = message["clip_length"], dict(message["image"])
            ImageSpec.from_json(image)
            return cls(
                str(message["name"]),
                str(message["description"]),
                image,
                None if clip_length is None else int(clip_length),
                {str(name): float(value) for name, value in message["gate"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a model: {error!r}") from None

    @classmethod
    def of(cls, model: ServedModel, gate: ChangeGateOptions) -> ModelInfo:
        """The description of a local model. Raises TypeError for a remote one."""
        if not isinstance(model.convert, Converter) or model.encoder is not None:
            raise TypeError(f"model {model.name} is not a local one")
        image = model.convert.spec.to_json()
        image |= {"mean": list(image["mean"]), "std": list(image["std"])}
        return cls(model.name, model.description, image, model.clip_length, asdict(gate))

    def served(self) -> ServedModel:
        converter = Converter(ImageSpec.from_json(self.image), self.clip_length)
        return ServedModel(self.name, self.description, self.clip_length, converter)


class ModelDirectory:
    """A copy of the bucket, kept up to date by `run`. The engine that started last decides what a model is.

    Parameters:
        on_change: called when a model is new or another one.
    """

    def __init__(self, connection: Connection, on_change: Callable[[], None] = lambda: None) -> None:
        self.models: dict[str, ModelInfo] = {}
        self.served: dict[str, ServedModel] = {}
        self._connection = connection
        self._on_change = on_change
        self._reader = StreamReader(
            connection, f"KV_{MODELS_BUCKET}", f"{_KEY_PREFIX}>", self._take, last_per_subject=True
        )

    def accepts(self, name: str, fingerprint: str) -> bool:
        """Whether an engine whose model has this fingerprint takes the samples that are made for `name`."""
        info = self.models.get(name)
        return info is not None and info.fingerprint == fingerprint

    async def run(self) -> None:
        """Until cancelled."""
        await self._reader.run()

    async def put(self, info: ModelInfo) -> None:
        """Publish a model of this engine; retried until JetStream has stored it, which may be electing a leader."""
        subject, warned = f"{_KEY_PREFIX}{model_key(info.name)}", False
        while True:
            try:
                await self._connection.jetstream.publish(subject, info.as_json(), timeout=PUT_SECONDS)
            except (NatsError, OSError, TimeoutError) as error:
                if not warned:
                    reason = str(error) or type(error).__name__
                    log.warning("the engine waits for JetStream to announce model %s: %s", info.name, reason)
                warned = True
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    def _take(self, message: Message) -> None:
        try:
            info = ModelInfo.parse(message.body)
        except (ValueError, InputError) as error:
            log.warning("a model of the cluster is ignored: %s", error)
            return
        before = self.models.get(info.name)
        if info == before:
            return
        self.models = {**self.models, info.name: info}
        self.served = {**self.served, info.name: info.served()}
        log.info(
            "%s: %s", "model of the cluster" if before is None else "another model of the cluster", info.description
        )
        self._on_change()


class AnnouncedModels(ServedModels):
    """The models of all engines. Any name may be asked for: its engine may come later."""

    def __init__(self, directory: ModelDirectory, default: str) -> None:
        self._directory = directory
        super().__init__([_unknown(default)], default)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._directory.served)

    def get(self, name: str | None) -> ServedModel:
        name = self.default if name is None else name
        return self._directory.served.get(name) or _unknown(name)


def _unknown(name: str) -> ServedModel:
    """A model of which only the name is known: its samples have no pixels."""
    return ServedModel(name, f"model {name}: no engine has served it yet", None, lambda frames: NO_PIXELS)
