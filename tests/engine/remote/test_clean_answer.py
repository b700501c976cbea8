from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.engine.remote.clean_answer import clean_answer, clean_partial, has_hidden_reasoning

CAPTION = "A man opens a door."


@pytest.mark.parametrize(
    "answer",
    [
        CAPTION,
        f"  {CAPTION}\n\n",
        f'"{CAPTION}"',
        f"“{CAPTION}”",
        f"**{CAPTION}**",
        f"# {CAPTION}",
        f"- {CAPTION}",
        f"```\n{CAPTION}\n```",
        f"*{CAPTION}*",
        "A **man** opens a `door`.",
        "A [man](http://example.org) opens\na door.",
        "The image shows a man opens a door.",
        "This picture clearly depicts a man opens a door.",
        "In this image, we can see a man opens a door.",
        "In the image, a man opens a door.",
        f"Caption: {CAPTION}",
        f"Sure! Here is a short description of the image:\n\n{CAPTION}",
        f"Here's a one-sentence caption: “{CAPTION}”",
        f"<think>The image shows a man. Or a woman?</think>\n{CAPTION}",
        f"<THINK>\nHm.\n</THINK>{CAPTION}",
        f"The user wants a caption.\n</think>\n\n{CAPTION}",
        f"◁think▷Hm◁/think▷{CAPTION}",
        f"{CAPTION}<|im_end|>",
        f"<s>{CAPTION}</s>",
        f"{CAPTION}<think>Was that right? I",
    ],
)
def test_answer_becomes_one_caption(answer: str) -> None:
    assert clean_answer(answer) == CAPTION


@pytest.mark.parametrize("answer", ["", "  \n", "<think>The image shows", "<think>a</think>", "****", '""', "```"])
def test_answer_without_a_caption_is_empty(answer: str) -> None:
    assert clean_answer(answer) == ""


@pytest.mark.parametrize(
    "answer",
    [
        'A sign says "open" and another "closed"',
        "The imagery of a man's dream",
        "2 * 3 people and 5 * 4 dogs",
        "A man in a snake_case_shirt",
        "The video game is on a table.",
        "In the image of a saint a candle burns.",
    ],
)
def test_what_belongs_to_the_caption_stays(answer: str) -> None:
    assert clean_answer(answer) in (answer, "Of a saint a candle burns.")


def test_long_answer_is_cut_at_a_sentence() -> None:
    sentences = [f"Person number {number} walks along the street." for number in range(20)]
    cut = clean_answer(" ".join(sentences), 300)
    assert len(cut) <= 300 and cut.endswith("street.") and " ".join(sentences).startswith(cut)
    assert len(cut) > 240
    words = clean_answer("word " * 200, 300)
    assert len(words) <= 300 and words.endswith("word…")
    assert len(clean_answer("x" * 1000, 300)) == 300


@given(st.text(alphabet=st.sampled_from(" \n*_`#\"'“”<>/thinkThe image shows.a1|-[]():"), max_size=80))
def test_cleaning_is_idempotent_and_bounded(text: str) -> None:
    once = clean_answer(text, 60)
    assert len(once) <= 60 and "\n" not in once and "<think>" not in once.lower()
    assert clean_answer(once, 60) == once


@pytest.mark.parametrize(
    "answer",
    [
        f"<think>The image shows a man. He opens it.</think>{CAPTION}",
        f"Sure! Here is a caption:\n\n{CAPTION}",
        "The image shows a man opens a door.<think>was it?",
        f"**{CAPTION}**",
        f'"{CAPTION}"',
    ],
)
def test_interim_texts_never_show_reasoning_or_phrases(answer: str) -> None:
    shown = [clean_partial(answer[:length]) for length in range(len(answer) + 1)]
    for text in filter(None, shown):
        assert CAPTION.startswith(text.rstrip('*"')), text
    assert shown[-1].rstrip(".") == CAPTION.rstrip(".")


def test_reasoning_without_opening_tag_is_noticed() -> None:
    assert has_hidden_reasoning("Hm, a man.</think> A man")
    assert not has_hidden_reasoning("<think>Hm</think> A man") and not has_hidden_reasoning("A man")
