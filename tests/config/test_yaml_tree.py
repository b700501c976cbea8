"""YAML as a configuration file needs it: values with their lines; everything odd is refused in one line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcap.config.problems import ConfigError
from streamcap.config.yaml_tree import MAX_BYTES, parse_tree, read_tree
from tests.examples import examples

BOMB = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"%c: &%c [%s]\n" % (name, name, b",".join([b"*%c" % before] * 9))
    for before, name in zip(b"abcdef", b"bcdefg", strict=True)
)


def values(text: str, **environ: str) -> dict[str, object]:
    return parse_tree(text.encode(), "f.yaml", environ).values


def test_scalars_follow_yaml_1_2() -> None:
    text = "{a: 1, b: -2.5e3, c: true, d: ~, e: no, f: 12:30, g: 0x1f, h: 2026-11-27, i: '1', j: 1_000, k: .5, l: }"
    assert values(text) == {
        "a": 1, "b": -2500.0, "c": True, "d": None, "e": "no", "f": "12:30", "g": 31, "h": "2026-11-27", "i": "1",
        "j": "1_000", "k": 0.5, "l": None,
    }  # fmt: skip
    assert values("a: -.inf") == {"a": -math.inf}


@given(
    st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L"]), min_size=1),
        st.recursive(
            st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False), st.lists, max_leaves=5
        )
        # Without digits: 0E0, a number in YAML 1.2 only, is written without quotes. PyYAML folds U+0085.
        | st.text(
            st.characters(codec="utf-8", exclude_characters="$", exclude_categories=["N", "C", "Z"]), max_size=20
        ),
    )
)
@settings(max_examples=examples(20))
def test_what_pyyaml_writes_is_read_back(content: dict[str, object]) -> None:
    assert values(yaml.safe_dump(content, allow_unicode=True)) == content


def test_line_of_every_key_and_entry() -> None:
    tree = parse_tree(b"a: 1\n\nb:\n  c: [1,\n    2]\n  d:\n    - x\n    - y: 1\n", "f.yaml", {})
    paths = {("a",): 1, ("b",): 3, ("b", "c"): 4, ("b", "c", 1): 5, ("b", "d", 1): 8, ("b", "d", 1, "y"): 8}
    assert {path: tree.lines[path] for path in paths} == paths
    assert tree.line(("b", "c", 1, "nothing")) == 5


def test_aliases_and_merge_keys() -> None:
    text = "camera: &camera {every: 1, labels: {site: a}}\ndoor: {<<: *camera, every: 2}\nyard: {<<: [*camera, {x: 1}]}"
    content = values(text)
    assert content["door"] == {"every": 2, "labels": {"site": "a"}}
    assert content["yard"] == {"every": 1, "labels": {"site": "a"}, "x": 1}


def test_variables_are_substituted_in_values_only() -> None:
    text = 'url: "rtsp://u:${P}@h/${P}"\nlone: "pa$word $"\ntwo: "$${P}"\n"${P}": 1\nyaml: "${Y}"'
    assert values(text, P="a: [", Y="{b: 1}") == {
        "url": "rtsp://u:a: [@h/a: [", "lone": "pa$word $", "two": "${P}", "${P}": 1, "yaml": "{b: 1}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "line", "says"),
    [
        (b"a: 1\n\tb: 2", 2, "tab"),
        (b"a:\n  b: 1\n\tc: 2", 3, "tab"),
        (b"a: 1\nb: 2\na: 3", 3, "a: set before, in line 1"),
        (b"a: 1\n---\nb: 2", 2, "second document"),
        (b"a: 1\nb: \xe9", 2, "not UTF-8"),
        (b"\xff\xfea\x00", 1, "not UTF-8"),
        (b"a: 1\nb: \x07", 2, "U+0007"),
        (b"- 1", 1, "must begin with a key"),
        (b"hello", 1, "must begin with a key"),
        (b"a: b: c", 1, "unexpected ':'"),
        (b"a: [1\nb: 2", 2, "':'"),
        (b"a:\n  b: 1\n c: 2", 3, "expected"),
        (b"a: !!python/object/apply:os.system [x]", 1, "tag"),
        (b"a: !secret x", 1, "tag"),
        (b"a: !!int x", 1, "a: 'x' is not a valid int"),
        (b"a: &x [*x]", 1, "levels"),
        (b"a: " + b"[" * 1_200, None, "levels"),
        (b"a: *nope", 1, "undefined alias"),
        (b"a: {<<: [x]}", 1, "<<"),
        (b"[1, 2]: 3", 1, "a key must be a word"),
        (b"a: 1\nb: {c: '${NOPE}'}", 2, "b.c: the environment variable NOPE is not set"),
        (b"a: 'x${pass word}'", 1, "without a name"),
        (b"a: " + b"x" * MAX_BYTES, None, "larger than"),
        (BOMB, 5, "values, aliases expanded"),
    ],
)
def test_odd_file_is_refused_in_one_line(data: bytes, line: int | None, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tree(data, "f.yaml", {})
    (problem,) = caught.value.problems
    assert (problem.line, str(caught.value).count("\n")) == (line, 0)
    assert says in problem.message
    assert "pass word" not in str(caught.value)


@given(st.binary(max_size=200) | st.text(st.sampled_from(":{}[]&*!|>'\"%@`,-?#\t\n ab1$<"), max_size=60))
@settings(max_examples=examples(20))
def test_any_bytes_are_read_or_refused(data: bytes | str) -> None:
    try:
        parse_tree(data if isinstance(data, bytes) else data.encode(), "f.yaml", {})
    except ConfigError as error:
        assert all(str(problem).startswith("f.yaml") and "\n" not in str(problem) for problem in error.problems)


@pytest.mark.parametrize("name", ["nowhere.yaml", ".", "a\x00b"])
def test_unreadable_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tree(tmp_path / name, {})
