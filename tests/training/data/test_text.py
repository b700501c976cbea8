from streamcap.training.data.text import STOP, make_tokenizer, normalize


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
