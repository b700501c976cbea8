from __future__ import annotations

import importlib

import pytest


@pytest.fixture(autouse=True)
def commands_leave_logging_alone(logging_as_it_was: None) -> None: ...


@pytest.fixture(autouse=True)
def process_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` bounds its end by timers that leave the process: here it is the one of the tests."""
    for module in ("streamcap.cli.service.serve", "streamcap.cli.service.process"):
        monkeypatch.setattr(importlib.import_module(module), "start_timer", lambda *_: None)
