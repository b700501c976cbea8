"""The commands in docs/from-the-old-scripts.md are valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from streamcap.cli import app

pytestmark = pytest.mark.slow

TABLE = (Path(__file__).resolve().parents[2] / "docs" / "from-the-old-scripts.md").read_text()


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`(streamcap [a-z]+ [^`]+)`", TABLE))))
def test_every_command_and_option_exists(command: str) -> None:
    group = typer.main.get_command(app)
    _, name, *rest = shlex.split(command)
    context = group.make_context("streamcap", [name, *rest])
    subcommand = group.get_command(context, name)  # type: ignore[attr-defined]
    assert subcommand is not None, name
    subcommand.make_context(name, rest, parent=context)
