"""docs/field.md names the test that holds each situation: the tests must exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/field.md").read_text()


def test_every_row_names_a_test() -> None:
    rows = [
        line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| situation"))
    ]
    assert len(rows) > 50
    assert not [row for row in rows if not re.search(r"\| `tests/\S+\.py::test_\w+` \|$", row)]


def test_every_named_test_exists() -> None:
    named = set(re.findall(r"`(tests/\S+\.py)::(\w+)`", TEXT))
    tests = {
        (file, node.name)
        for file in {file for file, _ in named}
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert named <= tests
