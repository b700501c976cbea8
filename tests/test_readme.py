"""What the README tells people to type must work as printed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from streamcap.cli import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    lines = "\n".join(blocks("console")).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").split(" #")[0].strip() for line in lines if line.startswith("$ ")]


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("streamcap ")])
def test_every_command_and_option_exists(command: str) -> None:
    group = typer.main.get_command(app)
    context = group.make_context("streamcap", shlex.split(command)[1:])
    name, rest = context._protected_args[0], context.args  # the group's own way of passing them on
    subcommand = group.get_command(context, name)  # type: ignore[attr-defined]
    assert subcommand is not None, name
    subcommand.make_context(name, list(rest), parent=context)


def test_readme_leads_with_make_commands() -> None:
    assert [c.split()[:2] for c in commands()[:2]] == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_link_target_exists(target: str) -> None:
    assert (ROOT / target).exists()


def test_python_example_captions_an_image() -> None:
    from streamcap.media.scenes import SceneScript, draw

    script = SceneScript(seed=5)
    example = next(block for block in blocks("python") if "load_captioner" in block)
    printed: list[tuple[object, ...]] = []
    exec(  # noqa: S102 - it is the README's own text
        example, {"image": draw(script.scene_at(1), 1.0, 640, 360), "print": lambda *values: printed.append(values)}
    )
    ((text, logprob),) = printed
    assert text == script.sentence_at(1)
    assert isinstance(logprob, float) and logprob <= 0
