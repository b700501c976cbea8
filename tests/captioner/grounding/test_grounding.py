"""Tags beside the embedding: what they deny is not said, in every way of decoding, and how sure a caption is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from streamcap import load_captioner
from streamcap.captioner import Captioner, registry
from streamcap.captioner.checkpoints.families.native import save_native
from streamcap.captioner.decoding.batch import ContinuousBatch, StopCriteria
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.decoding.sampling import CONTINUES, DENIED, GreedySampler
from streamcap.captioner.decoding.tokenizer import TextDecoder, load_tokenizer
from streamcap.captioner.grounding.grounding import Confidence, Grounding, ShortSentences
from streamcap.captioner.models.mini_encoder import build_mapping, build_vision
from streamcap.captioner.options import SearchOptions
from streamcap.errors import InputError
from tests.captioner.tiny_models import gpt2

OBJECTS = ["dog", "cat", "bicycle", "motorcycle", "hot dog"]
WORDS = ("a", "dog", "dogs", "cat", "kitten", "bike", "bicycle", "motorcycle", "hot", "runs", "animal")
CONFIG: dict[str, Any] = {
    "vision": {"architecture": "staged", "stem": 4, "widths": [4, 4, 4, 4], "depths": [1] * 4, "strides": [2] * 4}
    | {"outputs": [4, 4, 4, 16]},
    "mapping": {"architecture": "tagged_grid", "cells": 4, "channels": 16, "width": 64, "prefix": 3, "layers": 1}
    | {"heads": 4, "tags": len(OBJECTS) + 1, "hidden": 8},
    "gpt2": {"n_head": 4},
    "image": {"width": 64, "height": 64, "fit": "squash", "interpolation": "bilinear"},
    "bos_token_id": 119,
    "eos_token_id": 119,
    "max_tokens": 12,
    "tags": {"objects": OBJECTS, "scenes": ["street"], "deny_below": 0.5},
}
CONFIDENCE = {"bias": 1.0, "weakest": 0.5, "logprob": 0.1, "none": -0.5}


def tokenizer() -> Tokenizer:
    words = [*WORDS, *(f"w{number}" for number in range(120 - len(WORDS) - 1)), "<|endoftext|>"]
    word_level = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="w0"))
    word_level.pre_tokenizer = pre_tokenizers.Whitespace()
    word_level.add_special_tokens(["<|endoftext|>"])
    return word_level


def token(word: str) -> int:
    return WORDS.index(word)


def save(path: Path, config: dict[str, Any], seen: float) -> Path:
    """A checkpoint that sees every tag with the logit `seen`, and would love to say `dog`."""
    torch.manual_seed(5)
    mapping = build_mapping(config["mapping"])
    torch.nn.init.zeros_(mapping.tag_heads.project_out.weight)  # type: ignore[union-attr, arg-type]
    torch.nn.init.constant_(mapping.tag_heads.project_out.bias, seen)  # type: ignore[union-attr, arg-type]
    save_native(
        path,
        config=config,
        vision=build_vision(config["vision"]).state_dict(),
        mapping=mapping.state_dict(),
        gpt2=gpt2(6).state_dict(),
        tokenizer=tokenizer().to_str(),
        dtype=torch.float32,
    )
    return path


def images(count: int = 12) -> list[np.ndarray[Any, Any]]:
    return [np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8) for seed in range(count)]


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    """Its tags deny every object."""
    return load_captioner(save(tmp_path_factory.mktemp("tagged") / "blind", CONFIG, -3), "cpu", "fp32")


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    """Its tags deny none."""
    return load_captioner(save(tmp_path_factory.mktemp("tagged") / "seeing", CONFIG, 3), "cpu", "fp32")


def forbidden(captioner: Captioner) -> set[int]:
    (prompt, *_) = captioner._prompts(captioner.encode(np.stack(images(1))))
    assert prompt.suppressed is not None
    return set((prompt.suppressed == DENIED).nonzero().flatten().tolist())


def test_denied_tokens_are_the_object_words(blind: Captioner, seeing: Captioner) -> None:
    names = ("dog", "dogs", "cat", "kitten", "bike", "bicycle", "motorcycle", "animal")
    assert forbidden(blind) == {token(word) for word in names}
    assert forbidden(seeing) == set()


@pytest.mark.parametrize(
    ("tags", "suppressed"),
    [
        ([0.9, 0.1, 0.9, 0.9, 0.1, 0], {"cat", "kitten"}),
        # A dog may be hot; a bike is denied only where neither kind is seen.
        ([0.1, 0.9, 0.1, 0.9, 0.9, 0], {"bicycle"}),
        ([0.1, 0.1, 0.1, 0.1, 0.1, 1], {"dog", "dogs", "cat", "kitten", "bike", "bicycle", "motorcycle", "animal"}),
    ],
)
def test_word_is_denied_where_all_its_classes_are(tags: list[float], suppressed: set[str]) -> None:
    grounding = Grounding(OBJECTS, 0.5, None, TextDecoder(tokenizer()))
    (mask,) = grounding.suppressed(torch.tensor([tags]), 120)
    assert {WORDS[number] for number in (mask == DENIED).nonzero().flatten().tolist()} == suppressed


@pytest.mark.parametrize("beam", [1, 3])
def test_denied_words_are_not_generated(blind: Captioner, beam: int) -> None:
    suppressed = forbidden(blind)
    results = blind.caption(images(), beam_size=beam)
    assert not any(suppressed & set(result.tokens) for result in results)
    assert all(np.isfinite(result.logprob) for result in results)


def test_sampling_respects_denied_words(blind: Captioner) -> None:
    results = blind.caption(images(), temperature=2.0, seed=1)
    assert not any(forbidden(blind) & set(result.tokens) for result in results)


def test_without_denial_tokens_are_the_model_s(seeing: Captioner) -> None:
    embeddings = seeing.encode(np.stack(images()))
    prompts = seeing._prompts(embeddings)
    for prompt, result in zip(prompts, seeing.decode(embeddings), strict=True):
        cache = seeing._gpt2.new_cache(rows=1, positions=20, cross_positions=0)
        with torch.inference_mode():
            hidden, _ = seeing._gpt2.prefill(prompt.prefix[None], [prompt.length], cache)
            first = int(seeing._gpt2.logits(hidden).argmax())
        assert result.tokens[0] == first


def test_joining_decoder_equals_decode(blind: Captioner) -> None:
    embeddings = blind.encode(np.stack(images()))
    decoder = blind.decoder()
    for number, row in enumerate(embeddings):
        decoder.add(number, row)
    found = {}
    while decoder.active:
        found |= dict(decoder.step())
    assert [found[number] for number in range(len(embeddings))] == blind.decode(embeddings)


def test_slots_equal_running_batch(blind: Captioner) -> None:
    prompts = blind._prompts(blind.encode(np.stack(images(6))))
    limits = StopCriteria(10, frozenset((119,)))
    batches = (
        ContinuousBatch(blind._gpt2, GreedySampler(), limits, max_rows=4),
        CudaGraphBatch(blind._gpt2, limits, max_rows=4),
    )
    found = []
    for batch in batches:
        tokens = {}
        for number, prompt in enumerate(prompts):
            batch.add(number, prompt)
        while batch.active:
            tokens |= {row.key: list(row.tokens) for row in batch.step()}
        found.append(tokens)
    assert found[0] == found[1]
    assert not any(forbidden(blind) & set(tokens) for tokens in found[1].values())


def test_logprob_is_the_model_s_own(blind: Captioner) -> None:
    embeddings = blind.encode(np.stack(images(1)))
    (prompt,) = blind._prompts(embeddings)
    (result,) = blind.decode(embeddings, SearchOptions(max_tokens=1))
    cache = blind._gpt2.new_cache(rows=1, positions=8, cross_positions=0)
    with torch.inference_mode():
        hidden, _ = blind._gpt2.prefill(prompt.prefix[None], [prompt.length], cache)
        expected = blind._gpt2.logits(hidden).log_softmax(-1)[0, result.tokens[0]]
    assert result.logprob == pytest.approx(float(expected), abs=1e-4)


def test_confidence_needs_a_calibrated_checkpoint(seeing: Captioner, tmp_path: Path) -> None:
    assert all(result.confidence is None for result in seeing.caption(images(2)))
    config = {**CONFIG, "tags": {**CONFIG["tags"], "confidence": CONFIDENCE}}
    calibrated = load_captioner(save(tmp_path / "sure", config, 3), "cpu", "fp32")
    assert all(0 <= (result.confidence or -1) <= 1 for result in calibrated.caption(images(2)))


def test_confidence_follows_the_least_probable_word() -> None:
    grounding = Grounding(OBJECTS, 0.0, Confidence(**CONFIDENCE), TextDecoder(tokenizer()))
    tags = torch.tensor([0.9, 0.2, 0.6, 0.1, 0.0, 0.0])
    assert grounding.weakest("a dog and a cat", tags) == pytest.approx(0.2)
    assert grounding.weakest("a bike", tags) == pytest.approx(0.6)
    assert grounding.weakest("a street", tags) is None
    sure, unsure = (grounding.estimate(text, -1.0, tags) for text in ("a dog", "a cat"))
    assert sure is not None and unsure is not None and sure > unsure


SHORT = ShortSentences(bias=0.0, slope=1.0, min_confidence=0.8, replace_below=0.4)


def judge(text: str, tags: list[float], logprob: float = 0.0) -> tuple[str, float | None]:
    confidence = Confidence(bias=0.0, weakest=1.0, logprob=0.1, none=3.0)
    grounding = Grounding(OBJECTS, 0.0, confidence, TextDecoder(tokenizer()), scenes=["street", "sky"], short=SHORT)
    objects, scenes = tags[: len(OBJECTS)], tags[len(OBJECTS) :]
    several = [0.9 if share > 0.97 else 0.1 for share in objects]
    return grounding.judge(text, logprob, torch.tensor([*objects, *several, *scenes]))


@pytest.mark.parametrize(
    ("text", "tags", "said"),
    [
        # The caption names no object, and one is sure; or none is.
        ("a road", [0.9, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9], "a dog on a street"),
        ("a road", [0.7, 0.1, 0.1, 0.1, 0.1, 0.9, 0.9], "a road"),
        # It leaves the surest object out and is less sure; or it names it.
        ("a cat runs", [0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1], "a dog"),
        ("a dog and a cat", [0.9, 0.5, 0.1, 0.1, 0.1, 0.1, 0.1], "a dog and a cat"),
        # It names it beside something that is most likely not there.
        ("a dog and a cat", [0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9], "a dog under the sky"),
        # A second object is named where it is all but certain, several where there are.
        ("a road", [0.99, 0.95, 0.1, 0.1, 0.1, 0.1, 0.1], "dogs and a cat"),
    ],
)
def test_sure_tags_outweigh_a_worse_caption(text: str, tags: list[float], said: str) -> None:
    found, confidence = judge(text, tags)
    assert found == said
    assert confidence is not None
    if said != text:
        assert confidence == pytest.approx(max(tags[: len(OBJECTS)]), abs=1e-3)


def test_results_have_the_short_sentence(tmp_path: Path) -> None:
    short = {"bias": 0.0, "slope": 1.0, "min_confidence": 0.8, "replace_below": 1.0}
    tags = {**CONFIG["tags"], "confidence": {**CONFIDENCE, "bias": -9.0}, "short": short}
    tags["deny_below"] = 0.0
    mapping = {**CONFIG["mapping"], "tags": 2 * len(OBJECTS) + 1}
    config = {**CONFIG, "mapping": mapping, "tags": tags}
    captioner = load_captioner(save(tmp_path / "short", config, 1), "cpu", "fp32")
    (result,) = captioner.caption(images(1))
    assert result.text == "dogs and cats on a street", "each tag has a probability of 0.98"
    assert result.confidence is not None and result.confidence > 0.8
    assert result.tokens, "what was decoded"


@pytest.mark.parametrize(("word", "suppressed"), [("kittens", True), ("penguin", False), ("humans", False)])
def test_words_of_several_tokens_are_denied_at_the_first(word: str, suppressed: bool) -> None:
    decoder = load_tokenizer(registry.find_checkpoint("mini"))
    first, *rest = decoder.encode(word)
    assert rest, "it is one token in this vocabulary"
    grounding = Grounding(["person", "cat", "bird"], 0.5, None, decoder)
    (mask,) = grounding.suppressed(torch.zeros(1, 3), decoder.size)
    assert bool(mask[first] == DENIED) is suppressed
    (mask,) = grounding.suppressed(torch.tensor([[0.0, 0.9, 0.0]]), decoder.size)
    assert not (word == "kittens" and mask[first] == DENIED)


def test_pieces_of_words_are_known() -> None:
    decoder = load_tokenizer(registry.find_checkpoint("mini"))
    (mask,) = Grounding(["person"], 0.5, None, decoder).suppressed(torch.ones(1, 1), decoder.size)
    pieces = [token for token in decoder.encode("two kittens in a t-shirt, a man's hat") if mask[token] == CONTINUES]
    assert [decoder.text([token]) for token in pieces] == ["ens", "sh", "irt", "s"]


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"objects": ["dog"], "short": {"bias": 1}}, "TypeError"),
        ({"objects": ["hovercraft"]}, "'hovercraft' is no known object class"),
        ({"scenes": []}, "KeyError 'objects'"),
        ({"objects": ["dog"], "confidence": {"bias": 1}}, "TypeError"),
        ({"objects": ["dog"], "deny_below": "much"}, "ValueError"),
    ],
)
def test_bad_tags_name_the_setting(tmp_path: Path, tags: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "bad", {**CONFIG, "tags": tags}, 0)
    assert json.loads((path / "config.json").read_text())["tags"] == tags
    with pytest.raises(InputError, match=message):
        load_captioner(path, "cpu", "fp32")
