"""`ServiceChanges`: what a reloaded configuration file changes besides streams, without a restart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from streamcap.config.config import Config
from streamcap.engine.model_settings import ModelSettings
from streamcap.service.models import ModelService, complete
from streamcap.streams.options import StreamOptions
from streamcap.streams.stream_set import StreamSet

LIVE_OPTIONS = ("every", "decode", "min_confidence", "max_age")
"""Options of `serve` that act on running streams. All others take effect at the next start."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a configuration file and the command line say."""

    streams: StreamOptions
    models: Mapping[str, ModelSettings]
    """By name; the first is the default."""


class ServiceChanges:
    """Changes LIVE_OPTIONS, the default model, and remote models. See `config.reload.Service`.

    Parameters:
        wanted: what a configuration file says; runs on a thread. Raises InputError.
    """

    def __init__(self, wanted: Callable[[Config], Wanted], streams: StreamSet, models: ModelService) -> None:
        self._wanted = wanted
        self._streams = streams
        self._models = models

    def read(self, config: Config) -> Callable[[], Collection[str]]:
        wanted = self._wanted(config)
        running = self._streams.options
        options = replace(running, **{name: getattr(wanted.streams, name) for name in LIVE_OPTIONS})
        models, default = complete(wanted.models), next(iter(wanted.models))
        return lambda: self._apply(options, models, default)

    def _apply(self, options: StreamOptions, models: Mapping[str, ModelSettings], default: str) -> set[str]:
        served = self._models.served
        settled = {f"server.{name}" for name in LIVE_OPTIONS}
        streams = [self._streams.get(name) for name in self._streams.names()]
        models_before = {stream.name: stream.settings.model or served.default for stream in streams}
        changed = self._models.change(models, used={*models_before.values(), served.default})
        settled |= {f"models.{name}" for name in changed}
        if default in served.names:
            served.default = default
            settled.add("server.model")
        if options != self._streams.options:
            self._streams.set_options(options)
        for stream in streams:
            model = stream.settings.model or served.default
            if changed.get(model) or model != models_before[stream.name]:
                stream.change(stream.settings)
        return settled
