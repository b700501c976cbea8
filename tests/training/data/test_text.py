"""Caption normalization, word splitting and the tokenizer, in many scripts."""

import unicodedata

import pytest

from streamcap.training.data.text import STOP, make_tokenizer, normalize, split_words


def test_normalize_lowers_and_drops_punctuation() -> None:
    assert normalize('A man, in a "red" shirt - runs !') == "a man in a red shirt runs"


def test_normalize_unifies_possessives() -> None:
    assert normalize("The man's hat.") == normalize("the man 's hat") == "the man 's hat"


def test_normalize_drops_quotes_and_keeps_apostrophes() -> None:
    assert normalize("the boys' dog 'Rex' doesn't run") == "the boys dog rex doesn't run"


def test_normalize_of_punctuation_is_empty() -> None:
    assert normalize(" ... ' !") == ""


def test_tokenizer_round_trip_and_single_token_words() -> None:
    tokenizer = make_tokenizer(["a dog runs", "the dog sits"] * 20, 300)
    assert tokenizer.decode(tokenizer.encode("a dog sits").ids).strip() == "a dog sits"
    assert tokenizer.encode("dog").ids[0] == tokenizer.encode("a dog").ids[-1]
    assert tokenizer.token_to_id(STOP) == 0
    assert tokenizer.decode(tokenizer.encode("ein Bär").ids).strip() == "ein Bär"


@pytest.mark.parametrize(
    ("caption", "normalized"),
    [
        ("एक लड़की दौड़ती है।", "एक लड़की दौड़ती है"),
        ("เด็กผู้หญิงกำลังวิ่ง", "เด็กผู้หญิงกำลังวิ่ง"),
        ("ஒரு பெண் ஓடுகிறாள்!", "ஒரு பெண் ஓடுகிறாள்"),
        ("كَلْبٌ يَركُض، سريعاً", "كَلْبٌ يَركُض سريعاً"),
        ("کتاب‌ها را می‌خواند", "کتاب‌ها را می‌خواند"),
        ("一只狗,在草地上奔跑。", "一只狗 在草地上奔跑"),
        ("犬が走る 🐕️", "犬が走る"),
        ("Cafe\u0301 – NAÏVE", "café naïve"),
        ("L’homme d'ici", "l'homme d'ici"),
        ("İstanbul'da bir KÖPEK", "istanbul'da bir köpek"),
    ],
)
def test_normalize_keeps_letters_and_marks(caption: str, normalized: str) -> None:
    assert normalize(caption) == unicodedata.normalize("NFC", normalized)


def test_normalize_tells_girl_from_boy_in_hindi() -> None:
    assert normalize("लड़की दौड़ती है") != normalize("लड़का दौड़ता है")


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's hat.", ["a", "man", "'s", "hat"]),
        ("एक लड़की दौड़ती है", ["एक", "लड़की", "दौड़ती", "है"]),
        ("一只狗 runs 在草地", ["一", "只", "狗", "runs", "在", "草", "地"]),
        ("2匹の犬が", ["2", "匹", "の", "犬", "が"]),
        ("ผู้หญิง", ["ผู้", "ห", "ญิ", "ง"]),
        ("개가 달린다", ["개가", "달린다"]),
    ],
)
def test_split_words_of_scripts_without_spaces(caption: str, words: list[str]) -> None:
    assert split_words(caption) == [unicodedata.normalize("NFC", word) for word in words]


@pytest.mark.parametrize("caption", ["लड़की दौड़ती है", "เด็กผู้หญิงกำลังวิ่ง", "一只狗在草地上奔跑"])
def test_tokenizer_gives_back_every_script(caption: str) -> None:
    tokenizer = make_tokenizer([caption] * 20, 400)
    assert tokenizer.decode(tokenizer.encode(caption).ids).strip() == caption


@pytest.mark.parametrize(
    ("caption", "normalized"),
    [
        ("كِتَابٌ جَمِيلٌ", "كِتَابٌ جَمِيلٌ"),
        ("كتــاب", "كتاب"),
        ("\u200fولد\u200f يركض", "ولد يركض"),
        ("שָׁלוֹם", "שָׁלוֹם"),
        ("soft\u00adware", "software"),
        ("\u1019\u1014\u103a\u200b\u1019\u102c", "\u1019\u1014\u103a \u1019\u102c"),
        ("می\u200c.", "می"),
        ("\u110b\u1167\u110c\u1161", "여자"),
        ("mo\u0323\u0302t cô", "một cô"),
        ("\U0001f469\u200d\U0001f467 1\ufe0f\u20e3 runs", "1 runs"),
    ],
    ids=["harakat", "tatweel", "direction marks", "points", "soft hyphen", "zero-width space", "end joiner", "jamo",
         "decomposed", "emoji"],
)  # fmt: skip
def test_normalize_of_invisible_characters(caption: str, normalized: str) -> None:
    assert normalize(caption) == normalized
