"""The models of one service: completes their settings, loads them, and puts them together with the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from streamcap.captioner.memory import check_memory, memory_need
from streamcap.engine.engine import Engine
from streamcap.engine.live import LiveModel
from streamcap.engine.model_settings import ModelSettings
from streamcap.engine.served_model import ServedModel
from streamcap.errors import InputError
from streamcap.media.convert import Converter

if TYPE_CHECKING:
    from streamcap.captioner import Captioner

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
            needed.setdefault(GATE_MODEL, ModelSettings(GATE_MODEL))
        if settings.fallback is None:
            continue
        fallback = needed.setdefault(settings.fallback, ModelSettings(settings.fallback))
        if fallback.is_remote:
            raise InputError(f"model {name}: --fallback {settings.fallback}: a local model, not another server")
    return needed


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
