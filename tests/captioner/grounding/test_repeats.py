"""A phrase that a decoder repeats in a loop is said once."""

from __future__ import annotations

import pytest

from streamcap.captioner.grounding.repeats import without_repeats


@pytest.mark.parametrize(
    ("decoded", "said"),
    [
        ("a room with a white wall and a white wall and a white wall", "a room with a white wall"),
        ("a young asian asian asian girl", "a young asian girl"),
        ("a room with a large window with a large window", "a room with a large window"),
        ("a a dog dog", "a dog"),
        # What people say stays as it is.
        ("a boy and a boy are playing", "a boy and a boy are playing"),
        ("a black and white dog and a black and white cat", "a black and white dog and a black and white cat"),
        ("an orange or a red or an orange ball", "an orange or a red or an orange ball"),
        ("the theater", "the theater"),
        ("", ""),
    ],
)
def test_repeats_of_a_loop_are_left_out(decoded: str, said: str) -> None:
    assert without_repeats(decoded) == said


def test_repeats_of_a_long_loop_end_soon() -> None:
    assert without_repeats("a b " * 500 + "c") == "a b c"
