"""Shared by all tests: a check of process-wide state."""

from __future__ import annotations

import gc
import locale
import logging
import os
import random
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a busy machine must not fail a property test.
settings.register_profile("streamcap", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Of `make check-fast`.
settings.register_profile("fast", settings.get_profile("streamcap"), max_examples=20)
settings.load_profile("streamcap")

# huggingface_hub reads this when it is imported: no test may contact a hub.
os.environ["HF_HUB_OFFLINE"] = "1"

# Triton reads this when it is imported: it then interprets its kernels, on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell starts `make test > log &` with SIGINT ignored, and the programs that tests start and interrupt inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


_MODULE_MARKS = re.compile(r"^pytestmark = .*", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m "not slow"` do not even import a module that is marked slow as a whole; so for every mark."""
    left_out = set(re.findall(r"\bnot (\w+)", config.getoption("markexpr")))
    if not left_out or collection_path.suffix != ".py" or config.getoption("markexpr").count(" or "):
        return None
    line = _MODULE_MARKS.search(collection_path.read_text())
    marks = set(re.findall(r"\bpytest\.mark\.(\w+)", line[0])) if line else set()
    return bool(marks & left_out) or None


def pytest_collection_finish() -> None:
    """Keep what was imported out of every later garbage collection, which would visit all of it again."""
    gc.collect()
    gc.freeze()


def _process_state() -> dict[str, Any]:
    """The state that a test could leave changed for later tests, as far as it is cheap to read."""
    state: dict[str, Any] = {
        "environment": {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "working directory": Path.cwd(),
        "locale": locale.setlocale(locale.LC_ALL),
        "subnormal numbers": sys.float_info.min / 2 > 0,
    }
    state |= {f"handler of {number.name}": signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    status = Path("/proc/self/status")  # os.umask() can only read the mask by setting it
    if status.is_file():
        state["umask"] = next((line for line in status.read_text().splitlines() if line.startswith("Umask:")), "")
    if sys.platform != "win32":
        import resource

        for limit in ("RLIMIT_FSIZE", "RLIMIT_NOFILE"):
            state[limit] = resource.getrlimit(getattr(resource, limit))
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        state["torch threads"] = torch.get_num_threads()
        state["torch default dtype"] = torch.get_default_dtype()
    return state


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """Seed the random generators, and fail a test that leaves the process state changed."""
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    before = _process_state()
    yield
    after = _process_state()
    # Libraries add variables on import, so new ones are allowed.
    after["environment"] = {
        name: value for name, value in after["environment"].items() if name in before["environment"]
    }
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, f"changed for the tests that follow: {', '.join(changed)}"


@pytest.fixture
def logging_as_it_was() -> Iterator[None]:
    """Restore log levels, log handlers and signal handlers, which a command run in this process changes."""
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
