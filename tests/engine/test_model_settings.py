from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamcap.engine.model_settings import KEY_VARIABLE, ModelSettings, find_key
from streamcap.errors import InputError

URL = "http://127.0.0.1:11434/v1"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": ""}, "--model: empty"),
        ({"model": "openai:llava"}, "needs --model-url"),
        ({"model": "openai:", "url": URL}, "the server's name"),
        ({"model": "mini", "url": URL}, "--model-url: only for openai:MODEL"),
        ({"model": "mini", "fallback": "mini"}, "--fallback: only for openai:MODEL"),
        ({"model": "mini", "frames": 4}, "frames: only for openai:MODEL, but --model is mini"),
        (
            {"model": "openai:llava", "url": URL, "fit": "pad"},
            "--fit: only for a local model, but --model is openai:llava",
        ),
        ({"model": "openai:llava", "url": "ftp://127.0.0.1"}, "an http:// or https:// URL"),
        ({"model": "openai:llava", "url": "http://127.0.0.1:port/v1"}, "invalid host or port"),
        ({"model": "openai:llava", "url": URL, "in_flight": 0}, "in_flight 0: 1 to 256"),
        ({"model": "openai:llava", "url": URL, "frames": 99}, "frames 99: 1 to 32"),
        ({"model": "openai:llava", "url": URL, "timeout": 0.0}, "timeout 0: seconds"),
        ({"model": "openai:llava", "url": URL, "prompt": " "}, "--prompt: empty"),
    ],
)
def test_wrong_settings_are_refused_with_reason(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError) as refused:
        ModelSettings(**settings)
    assert reason in str(refused.value)


def test_key_is_never_shown() -> None:
    settings = ModelSettings("openai:llava", url=URL, key="sk-very-secret")
    assert "secret" not in repr(settings)
    for wrong in ({"url": "http://me:sk-very-secret@host/v1"}, {"url": URL, "key": "sk-very-secret\n"}):
        with pytest.raises(InputError) as refused:
            ModelSettings("openai:llava", **wrong)
        assert "secret" not in str(refused.value)


def test_key_is_of_file_then_of_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "of the environment")
    assert find_key() == "of the environment"
    (tmp_path / "key").write_text("of the file\n")
    assert find_key(tmp_path / "key") == "of the file"
    (tmp_path / "empty").write_text("\n")
    for file, reason in (("empty", "empty"), ("absent", "No such file")):
        with pytest.raises(InputError, match=reason):
            find_key(tmp_path / file)
