from __future__ import annotations

import importlib
import logging
import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Restore log levels, log handlers and signal handlers, which a command in this process changes."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logging.root.manager.loggerDict}
    yield
    for number, handler in signals.items():
        signal.signal(number, handler)
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


@pytest.fixture(autouse=True)
def process_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve` bounds its end by timers that leave the process: here it is the one of the tests."""
    for module in ("streamcap.cli.service.serve", "streamcap.cli.service.process"):
        monkeypatch.setattr(importlib.import_module(module), "start_timer", lambda *_: None)
