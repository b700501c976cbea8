"""The log line of `streamcap serve` about its model."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

import streamcap.captioner as captioner_room
from streamcap.cli.service.process import load_model
from streamcap.engine.model_settings import ModelSettings


@pytest.mark.slow
def test_serve_names_its_model(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    model = SimpleNamespace(info={"family": "streamcap"}, require_text=lambda: None)
    monkeypatch.setattr(captioner_room, "load_captioner", lambda name, **options: model, raising=False)
    with caplog.at_level(logging.INFO):
        load_model(ModelSettings("mini", device="cpu", precision="fp32"), threads=None)
    expected = "model mini: streets, animals, rooms, people outdoors; for other cameras --model clipcap-coco"
    assert expected in caplog.text
