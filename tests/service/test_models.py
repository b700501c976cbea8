"""The models of one service: settings completed, loaded, served by the name that streams give."""

from __future__ import annotations

from typing import Any

import pytest

from streamcap import load_captioner
from streamcap.engine.change_gate import ChangeGateOptions
from streamcap.engine.engine import Engine, EngineOptions
from streamcap.engine.model_settings import ModelSettings
from streamcap.errors import InputError
from streamcap.service.models import complete, gate_model, load_models, serve_local

pytestmark = pytest.mark.slow

URL = "http://127.0.0.1:11434/v1"


def test_remote_model_brings_gate_and_fallback() -> None:
    remote = ModelSettings("openai:llava", url=URL, fallback="clipcap-coco")
    models = complete({"talker": remote})
    assert list(models) == ["talker", "mini", "clipcap-coco"]
    assert gate_model(models) == "mini"
    # A model that is there already is used, under its name.
    models = complete({"talker": ModelSettings("openai:llava", url=URL, fallback="fast"), "fast": ModelSettings()})
    assert list(models) == ["talker", "fast"] and gate_model(models) == "fast"


def test_fallback_is_a_local_model() -> None:
    remote = ModelSettings("openai:llava", url=URL, fallback="other")
    with pytest.raises(InputError, match="--fallback other: a local model"):
        complete({"talker": remote, "other": ModelSettings("openai:qwen", url=URL)})


def test_local_models_load_once_and_serve_by_name() -> None:
    loads: list[ModelSettings] = []

    def load(settings: ModelSettings) -> Any:
        loads.append(settings)
        return load_captioner(settings.model, device="cpu", precision="fp32")

    models = {"fast": ModelSettings(), "square": ModelSettings(fit="pad")}
    loaded = load_models(models, load)
    engine = Engine({}, EngineOptions(ChangeGateOptions(0.02)), lambda outcomes: None)
    served = [serve_local(name, models[name], model, engine) for name, model in loaded.items()]
    assert loads == list(models.values())
    assert [model.name for model in served] == ["fast", "square"] == list(engine.statistics.models)
    assert [model.convert.spec.fit for model in served] == ["squash", "pad"]  # type: ignore[attr-defined]
