"""What the README and the documentation tell people to type, and link to, exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from streamcap.captioner.registry import MODELS
from streamcap.cli import app

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str = README) -> list[str]:
    lines = "\n".join(blocks("console", text)).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ").split(" #")[0].strip() for line in lines if line.startswith("$ ")]


ALL_COMMANDS = sorted({command for page in PAGES for command in commands(page.read_text())})


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("command", [c for c in ALL_COMMANDS if c.startswith("streamcap ")])
def test_every_command_and_option_exists(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cams.yaml").write_text("streams: {door: {url: 'scenes:'}}")  # --config is read with the options
    group = typer.main.get_command(app)
    context = group.make_context("streamcap", shlex.split(command)[1:])
    name, rest = context._protected_args[0], context.args  # the group's own way of passing them on
    subcommand = group.get_command(context, name)  # type: ignore[attr-defined]
    assert subcommand is not None, name
    subcommand.make_context(name, list(rest), parent=context)


def test_readme_leads_with_make_commands() -> None:
    assert [c.split()[:2] for c in commands()[:2]] == [["make", "demo"], ["make", "test"]]


def test_make_targets_exist() -> None:
    targets = {match for command in ALL_COMMANDS for match in re.findall(r"\bmake ([\w-]+)$", command)}
    assert {"demo", "test", "chaos", "fuzz", "check-fast", "coverage"} <= targets
    assert targets <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_benchmark_modules_exist() -> None:
    modules = {match for command in ALL_COMMANDS for match in re.findall(r"python -m benchmarks\.(\w+)", command)}
    assert modules
    assert [module for module in sorted(modules) if not (ROOT / "benchmarks" / f"{module}.py").is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_link_target_exists(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)(?:#([^)]+))?\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name}" not in index]
    assert missing == ["README.md"]


def test_model_table_equals_the_registry() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([^|]+) \| ([^|]+) \|$", README, re.MULTILINE)
    assert rows == [(entry.name, entry.quality, entry.license) for entry in MODELS.values()]


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
