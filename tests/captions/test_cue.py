from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.captions.cue import Cue, merge_cues, text_width, to_ms, wrap_lines
from streamcap.captions.text import clean_text


def test_cue_end_must_follow_start() -> None:
    with pytest.raises(ValueError, match="must end after"):
        Cue(1000, 1000, "a dog")


def test_equal_neighbors_merge() -> None:
    seen = list(merge_cues([Cue(0, 1000, "a dog"), Cue(1000, 2000, "a dog"), Cue(2000, 3000, "a cat")]))
    assert seen == [Cue(0, 2000, "a dog"), Cue(2000, 3000, "a cat")]


def test_overlapping_cue_is_cut() -> None:
    seen = list(merge_cues([Cue(0, 1000, "a dog"), Cue(960, 1960, "a cat")]))
    assert seen == [Cue(0, 960, "a dog"), Cue(960, 1960, "a cat")]


def test_small_gap_is_closed_and_wide_gap_stays() -> None:
    seen = list(merge_cues([Cue(0, 1000, "a"), Cue(1033, 2000, "b"), Cue(9000, 10000, "c")]))
    assert seen == [Cue(0, 1033, "a"), Cue(1033, 2033, "b"), Cue(9000, 10000, "c")]


def test_empty_cue_is_left_out_and_ends_the_one_before() -> None:
    seen = list(merge_cues([Cue(0, 1000, "a dog"), Cue(600, 1000, ""), Cue(5000, 6000, "a dog"), Cue(6000, 7000, "")]))
    assert seen == [Cue(0, 600, "a dog"), Cue(5000, 6000, "a dog")]


def test_repeated_text_after_long_gap_is_new_cue() -> None:
    assert len(list(merge_cues([Cue(0, 1000, "a dog"), Cue(60_000, 61_000, "a dog")]))) == 2


def test_short_cue_is_extended_until_next() -> None:
    assert list(merge_cues([Cue(0, 200, "a dog")])) == [Cue(0, 1000, "a dog")]
    assert next(iter(merge_cues([Cue(0, 200, "a dog"), Cue(300, 1300, "a cat")]))) == Cue(0, 300, "a dog")


def test_long_caption_wraps_evenly() -> None:
    text = "two white dogs run on the grass beside a red car in the snow"
    assert wrap_lines(text) == ("two white dogs run on the grass", "beside a red car in the snow")
    assert wrap_lines("a dog") == ("a dog",)
    assert wrap_lines("") == ("",)


def test_wrapped_lines_are_cached() -> None:
    text = "a dog that nobody has seen before runs over the grass"
    again = wrap_lines.cache_info().hits
    assert wrap_lines(text) is wrap_lines(text)
    assert wrap_lines.cache_info().hits == again + 1


def visible(text: str) -> str:
    return text.replace(" ", "").replace("\u200b", "")


@given(st.text(min_size=0, max_size=300))
def test_wrapping_keeps_every_word(text: str) -> None:
    broken = wrap_lines(text)
    assert visible("".join(broken)) == visible(clean_text(text))
    assert len(broken) <= 2
    if text_width(clean_text(text)) <= 42:
        assert broken == (clean_text(text),)


@given(st.lists(st.integers(1, 60), min_size=2, max_size=60), st.integers(2, 4))
def test_lines_break_at_best_word(lengths: list[int], count: int) -> None:
    words = ["x" * length for length in lengths]
    broken = wrap_lines(" ".join(words), 42, count)
    if len(broken) == 2 and count == 2:
        whole = len(" ".join(words))
        best = min(abs(len(" ".join(words[:cut])) - whole / 2) for cut in range(1, len(words)))
        assert abs(len(broken[0]) - whole / 2) == best


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("two dogs and a cat are sleeping on the sofa near a window", "two dogs and a cat are sleeping"),
        ("a woman in a blue coat is walking across the street in rain", "a woman in a blue coat is walking"),
        ("some people who are sitting at a table drinking their coffee", "some people who are sitting at"),
        # Every break that fits is after an article: the most even one is used.
        (f"{'x' * 38} the {'y' * 41}", f"{'x' * 38} the"),
    ],
)
def test_line_does_not_end_in_an_article(text: str, first: str) -> None:
    lines = wrap_lines(text)
    assert lines[0] == first
    assert max(map(len, lines)) <= 42


@pytest.mark.parametrize(
    ("separator", "lines"),
    [
        # Zero-width spaces separate the words of Khmer.
        (
            "\u200b",
            [
                "មនុស្ស\u200bពីរ\u200bនាក់\u200bឈរ\u200bក្បែរ\u200bរថយន្ត\u200bពណ៌\u200bក្រហម",
                "នៅ\u200bមុខ\u200bផ្ទះ\u200bធំ\u200bមួយ\u200bក្នុង\u200bភូមិ\u200bដាច់ស្រយាល",
            ],
        ),
        # The points of Hebrew take no room; the direction mark stays.
        (" ", ["שְׁנֵי כְּלָבִים לְבָנִים רָצִים עַל הַדֶּשֶׁא", "לְיַד מְכוֹנִית BMW\u200f אֲדֻמָּה בַּשֶּׁלֶג"]),
        # Chinese and Japanese have no spaces. No line begins with a comma or a small kana.
        ("", ["两个人站在一辆红色的汽车", "旁边，后面有一座很大的房子"]),
        ("", ["二人の人が大きな家の前にある", "赤いトラックのそばに立っている"]),
        # To break Thai without zero-width spaces, one needs a dictionary.
        ("", ["ชายสองคนยืนอยู่ข้างรถยนต์สีแดงหน้าบ้านหลังใหญ่ในหมู่บ้าน"]),
    ],
    ids=["Khmer", "Hebrew", "Chinese", "Japanese", "Thai"],
)
def test_lines_of_other_scripts(separator: str, lines: list[str]) -> None:
    assert list(wrap_lines(separator.join(lines))) == lines


SCRIPTS = "aé ́\u200b\u200dשְׁרក្ឡេमिष्두ខំ两か゛っ👩\u200d👧🏽🇫🇷"


@given(st.text(SCRIPTS, min_size=30, max_size=120))
def test_no_line_breaks_inside_a_grapheme(text: str) -> None:
    import regex  # transformers needs it too

    text = clean_text(text)
    clusters = [cluster for cluster in regex.findall(r"\X", text) if visible(cluster)]
    broken = [cluster for line in wrap_lines(text) for cluster in regex.findall(r"\X", line) if visible(cluster)]
    assert [visible(cluster) for cluster in broken] == [visible(cluster) for cluster in clusters]


ARTICLES = ("a", "an", "the", "The")
WORDS = st.sampled_from([*ARTICLES, "dog", "umbrella", "is", "photographer"])


@given(st.lists(WORDS, min_size=2, max_size=20).map(" ".join))
def test_article_ends_a_line_only_without_choice(text: str) -> None:
    lines, words = wrap_lines(text), text.split()
    if len(lines) < 2 or lines[0].split()[-1] not in ARTICLES:
        return
    breaks = [(words[:cut], words[cut:]) for cut in range(1, len(words)) if words[cut - 1] not in ARTICLES]
    assert not any(len(" ".join(line)) <= 42 and len(" ".join(rest)) <= 42 for line, rest in breaks)


def test_lines_of_many_words_take_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamcap.captions.text.MAX_TEXT_CHARACTERS", 10_000_000)
    began = time.process_time()
    assert len(wrap_lines("ab " * 200_000)) == 2
    assert time.process_time() - began < 2  # 0.1 s; the square of 200,000 takes minutes


def test_to_ms_rounds_once_and_is_never_negative() -> None:
    assert to_ms(1.0004) == 1000
    assert to_ms(1.0006) == 1001
    assert to_ms(-3) == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 3000), st.integers(1, 4000), st.sampled_from(["a dog", "a cat", "a car"])),
        max_size=30,
    )
)
def test_merged_cues_never_overlap(steps: list[tuple[int, int, str]]) -> None:
    cues, start = [], 0
    for pause, length, text in steps:
        start += pause
        cues.append(Cue(start, start + length, text))
    seen = list(merge_cues(cues))
    assert all(first.end_ms <= second.start_ms for first, second in itertools.pairwise(seen))
    assert {cue.text for cue in seen} <= {cue.text for cue in cues}
