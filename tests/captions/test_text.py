from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamcap.captions.text import MAX_TEXT_CHARACTERS, clean_text
from streamcap.captions.track import CaptionTrack
from tests.captions.fakes import LATENCY, at

ANY_TEXT = st.text(st.characters(codec=None) | st.sampled_from("\x00\x1b\u202e\u2028\ud800\udfff \n"))


@given(ANY_TEXT)
def test_clean_text_is_one_line_of_whole_characters(text: str) -> None:
    cleaned = clean_text(text)
    assert cleaned.encode().decode() == cleaned
    assert cleaned.splitlines() in ([cleaned], [])
    assert not set(cleaned) & set("\x00\x1b\u202e\u2066")
    assert clean_text(cleaned) == cleaned


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S"]) | st.sampled_from("\u200d\u200c "), max_size=200))
def test_clean_text_keeps_letters_and_joiners(text: str) -> None:
    assert clean_text(text) == " ".join(text.split())


def test_clean_text_is_bounded() -> None:
    for text in ("x" * 200_000, "ab " * 200_000):
        assert len(clean_text(text)) in (MAX_TEXT_CHARACTERS - 1, MAX_TEXT_CHARACTERS)
        assert clean_text(text).endswith("…")


def test_track_cleans_texts() -> None:
    track = CaptionTrack("door", every=1.0)
    caption = track.final(at(0.0), "a\x00 dog\ud800 \n runs", -0.1, LATENCY)
    assert caption.text == track.cues[0].text == "a dog\ufffd runs"
