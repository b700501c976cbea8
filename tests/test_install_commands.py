"""No printed command installs a package of somebody else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from streamcap.extras import install_command

ROOT = Path(__file__).parents[1]
DIRECTORIES = ("streamcap", "clients", "benchmarks", "docs", ".ci")
SUFFIXES = {"", ".html", ".js", ".md", ".py", ".sh", ".toml", ".yaml", ".yml"}
COMMAND = re.compile(r"(?:pip|pipx|uv(?: pip| tool)?) (?:install|add|run)\b[^`\n]*|uvx\b[^`\n]*")
EXTRA = re.compile(r"(?:install_command|require_extra)\([\"'](\w+)[\"']|pip install '\.\[(\w+)\]'")


def texts() -> dict[str, str]:
    """Whatever may print or document a command, by path."""
    found = [path for name in DIRECTORIES for path in (ROOT / name).rglob("*") if path.suffix in SUFFIXES]
    found = [path for path in (*found, *ROOT.glob("*.md"), ROOT / "Makefile") if path.is_file()]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8", errors="replace") for path in found}


def fetched(command: str) -> list[str]:
    """Requirements of `command` that an index would answer, if they are named like this project."""
    words = re.sub(r"[\"'(){}]", " ", command.split(" #")[0]).split()
    return [word for word in words if re.match(r"streamcap\b", word)]


def test_no_command_fetches_streamcap_from_an_index() -> None:
    assert fetched("pip install 'streamcap[train]'") and fetched("pipx install streamcap-live")
    assert not fetched(install_command("train")) and not fetched("pip install ./clients/python  # of streamcap")
    commands = [(path, command) for path, text in texts().items() for command in COMMAND.findall(text)]
    assert commands
    assert [(path, command) for path, command in commands if fetched(command)] == []


def test_every_offered_extra_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = {name for text in texts().values() for pair in EXTRA.findall(text) for name in pair if name}
    assert {"train", "bench", "drive"} <= offered <= set(project["optional-dependencies"])
