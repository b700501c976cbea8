"""The client example of the README, verbatim, against a running service."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from testbed.service import Service
from tests.test_readme import blocks

pytestmark = pytest.mark.e2e


def test_readme_feed_example_prints_captions() -> None:
    (example,) = (block for block in blocks("python") if "streamcap_client" in block)
    with Service("scenes:", "--every", "0.5", "--change-threshold", "0") as service:
        example = example.replace("http://127.0.0.1:8642", service.base).replace("print(", "print(flush=True, *(")
        example = example.replace("event.text)", "event.text))")
        with subprocess.Popen([sys.executable, "-c", example], stdout=subprocess.PIPE, text=True) as viewer:
            assert viewer.stdout is not None
            lines = [viewer.stdout.readline() for _ in range(3)]
            viewer.kill()
    assert all(re.fullmatch(r"\d+\.?\d* (a|two|three) .+\n", line) for line in lines), lines
