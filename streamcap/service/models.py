"""The models of one service: completes their settings, loads them, and puts them together with the engine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from streamcap.captioner.memory import check_memory, memory_need
from streamcap.engine.engine import Engine, EngineOptions
from streamcap.engine.live import LiveModel
from streamcap.engine.model_settings import ModelSettings
from streamcap.engine.outcome import Encoded, Outcome
from streamcap.engine.remote.images import ImageSampler
from streamcap.engine.served_model import ServedModel, ServedModels
from streamcap.errors import InputError
from streamcap.media.convert import Converter
from streamcap.media.frame import Pixels, Sample

if TYPE_CHECKING:
    from streamcap.captioner import Captioner
    from streamcap.engine.remote.remote_model import RemoteModel

log = logging.getLogger(__name__)

GATE_MODEL = "mini"
"""Its encoder looks at the samples of remote models: cheap, and part of the package."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A local model, warmed up."""

    captioner: Captioner
    live: LiveModel


def complete(models: Mapping[str, ModelSettings]) -> dict[str, ModelSettings]:
    """`models` by name, with those that they need: the fallbacks and the encoder of remote ones. Raises InputError."""
    needed = dict(models)
    for name, settings in models.items():
        if not settings.is_remote:
            continue
        if not any(other.model == GATE_MODEL for other in needed.values()):
            needed.setdefault(GATE_MODEL, _on_its_device(settings, GATE_MODEL))
        if settings.fallback is None:
            continue
        fallback = needed.setdefault(settings.fallback, _on_its_device(settings, settings.fallback))
        if fallback.is_remote:
            raise InputError(f"model {name}: --fallback {settings.fallback}: a local model, not another server")
    return needed


def _on_its_device(settings: ModelSettings, model: str) -> ModelSettings:
    """`model` where `--device` and `--precision` of a remote model say: that one needs none itself."""
    return ModelSettings(model, device=settings.device, precision=settings.precision)


def gate_model(models: Mapping[str, ModelSettings]) -> str:
    """The name of the local model whose encoder looks at the samples of remote models."""
    return next(name for name, settings in models.items() if settings.model == GATE_MODEL)


def load_models(
    models: Mapping[str, ModelSettings], load: Callable[[ModelSettings], Captioner]
) -> dict[str, LoadedModel]:
    """Load the local ones of `models`, which are complete. Logs the memory they need first. Raises InputError."""
    local = {name: settings for name, settings in models.items() if not settings.is_remote}
    needs = [memory_need(name, settings.model, settings.device, settings.precision) for name, settings in local.items()]
    report = check_memory([need for need in needs if need is not None])
    if len(local) > 1 and report:
        log.info("%s", report)
    return {name: load_model(settings, load) for name, settings in local.items()}


def load_model(settings: ModelSettings, load: Callable[[ModelSettings], Captioner]) -> LoadedModel:
    """Load one model and warm it up, which would otherwise delay the first caption."""
    captioner = load(settings)
    live = LiveModel(captioner)
    live.warm_up()
    return LoadedModel(captioner, live)


class ModelService:
    """All models of one service, and the engine. Create and close it on the event loop.

    Parameters:
        models: complete. default: the name of the model of streams that name none.
        loaded: the local ones.
        deliver: takes outcomes, on the event loop.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSettings],
        default: str,
        loaded: Mapping[str, LoadedModel],
        options: EngineOptions,
        deliver: Callable[[list[Outcome]], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._deliver = deliver
        self._models = dict(models)
        self._loaded = loaded
        self._closing: set[asyncio.Task[None]] = set()
        self.remotes: dict[str, RemoteModel] = {}
        self.engine = Engine(
            {},
            options,
            lambda outcomes: self._soon(deliver, outcomes),
            deliver_encoded=lambda encoded: self._soon(self._route, encoded),
        )
        served = [serve_local(name, models[name], model, self.engine) for name, model in loaded.items()]
        local = {model.name: model for model in served}
        for name, settings in models.items():
            if settings.is_remote:
                served.append(self._serve_remote(name, settings, local[gate_model(models)]))
        # In the order of the settings.
        self.served = ServedModels(sorted(served, key=lambda model: list(models).index(model.name)), default)

    def forget(self, stream: str) -> None:
        """A stream was removed."""
        self.engine.forget(stream)
        for remote in self.remotes.values():
            remote.forget(stream)

    def change(self, wanted: Mapping[str, ModelSettings], *, used: Collection[str]) -> dict[str, bool]:
        """Make the remote models as `wanted`, which are complete. Local ones change at the next start only.

        used: the models that streams use; they are not removed. Requests in flight of a changed model are cancelled.
        Returns, by name, the models that are as wanted now: whether they changed.
        """
        done: dict[str, bool] = {}
        for name in (*self._models, *(name for name in wanted if name not in self._models)):
            old, new = self._models.get(name), wanted.get(name)
            if old == new:
                done[name] = False
            elif (old is None or old.is_remote) and (name not in used if new is None else self._can_serve(new, wanted)):
                self._replace_remote(name, new)
                done[name] = True
        return done

    def _can_serve(self, settings: ModelSettings, wanted: Mapping[str, ModelSettings]) -> bool:
        """Whether it is a remote model, and the local ones that it needs are loaded."""
        needed = {self._gate(), settings.fallback or self._gate()}
        return settings.is_remote and all(
            name is not None and name in self._loaded and self._models[name] == wanted.get(name) for name in needed
        )

    def _gate(self) -> str | None:
        """The name of the local model whose encoder looks at the samples of remote ones; None if none is loaded."""
        return next((name for name in self._loaded if self._models[name].model == GATE_MODEL), None)

    def _replace_remote(self, name: str, settings: ModelSettings | None) -> None:
        if (old := self.remotes.pop(name, None)) is not None:
            closing = asyncio.create_task(old.close(), name=f"close-{name}")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        if settings is None:
            del self._models[name]
            self.served.remove(name)
            self.engine.statistics.remotes = {
                other: one for other, one in self.engine.statistics.remotes.items() if other != name
            }
        else:
            self._models[name] = settings
            self.served.add(self._serve_remote(name, settings, self.served.get(self._gate())))

    async def close_remotes(self) -> None:
        """Cancel all requests."""
        await asyncio.gather(*self._closing, *(remote.close() for remote in self.remotes.values()))

    def _soon(self, callback: Callable[[list[Any]], None], values: list[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(callback, values)

    def _route(self, samples: list[Encoded]) -> None:
        for encoded in samples:
            remote = self.remotes.get(encoded.sample.model)
            if remote is not None:
                remote.put(encoded)

    def _serve_remote(self, name: str, settings: ModelSettings, gate: ServedModel) -> ServedModel:
        # Here, because they import httpx and PIL, which most services do not need.
        from streamcap.engine.remote.client import RemoteClient
        from streamcap.engine.remote.remote_model import RemoteModel

        fall_back = None
        if settings.fallback is not None:
            loaded = None if settings.fallback == gate.name else self._loaded[settings.fallback]
            fall_back = Fallback(settings.fallback, loaded, self.engine)
        remote = self.remotes[name] = RemoteModel(
            name,
            settings,
            RemoteClient(settings),
            self.engine.gate,
            self._deliver,
            fall_back=fall_back,
            interim_interval=self.engine.options.interim_interval,
            statistics=self.engine.statistics.remotes.get(name),
        )
        self.engine.statistics.remotes = {**self.engine.statistics.remotes, name: remote.statistics}
        where = urlsplit(settings.url or "").netloc
        return ServedModel(
            name=name,
            description=f"model {name}: {settings.remote_name} at {where}",
            clip_length=None if settings.frames == 1 else settings.frames,
            convert=gate.convert,
            encoder=gate.name,
            images=ImageSampler(settings.image_size),
            notice=remote.notice,
        )


class Fallback:
    """Gives the samples that a remote model cannot caption to a local one. From any thread.

    Parameters:
        loaded: the local model; None: the samples' pixels are its own already.
    """

    def __init__(self, name: str, loaded: LoadedModel | None, engine: Engine) -> None:
        self._name = name
        self._captioner = None if loaded is None else loaded.captioner
        self._engine = engine

    def __call__(self, sample: Sample) -> None:
        pixels = sample.pixels if self._captioner is None else _fitted(sample.images[-1].pixels, self._captioner)
        self._engine.submit(replace(sample, model=self._name, encoder=None, pixels=pixels, images=()))


def _fitted(image: Pixels, captioner: Captioner) -> Pixels:
    from streamcap.captioner.preprocess import fit_image

    pixels = fit_image(image, captioner.image_spec)
    return pixels if captioner.clip_length is None else np.stack([pixels] * captioner.clip_length)


def serve_local(name: str, settings: ModelSettings, loaded: LoadedModel, engine: Engine) -> ServedModel:
    """Add a loaded model to the engine."""
    from streamcap.captioner.registry import describe_model

    captioner = loaded.captioner
    engine.add_model(name, loaded.live).drafts = loaded.live.draft_statistics
    image = captioner.image_spec if settings.fit is None else replace(captioner.image_spec, fit=settings.fit)
    return ServedModel(
        name=name,
        description=describe_model(settings.model, captioner.info["family"]),
        clip_length=captioner.clip_length,
        convert=Converter(image, captioner.clip_length),
    )
