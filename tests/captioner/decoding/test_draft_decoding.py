"""Drafts change how many passes a caption takes, and nothing else about it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamcap import Captioner, load_captioner
from streamcap.captioner.kernels.packed import PackedLinear
from streamcap.captioner.kernels.precision import convert
from streamcap.errors import InputError
from tests.captioner.checkpoints.families.test_encoder_decoder import make
from tests.captioner.packed_layers import needs_compiler
from tests.captioner.tiny_models import ours

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = [path.stem for path in sorted(GOLDEN.glob("*.pt"))] + ["cross_attention", "mini"]


class EveryGuess:
    """A budget that never depends on time: so many tokens, or all."""

    def __init__(self, width: int = 99) -> None:
        self.width = width

    def guesses(self, rows: Any, most: int) -> int:
        return min(self.width, most)

    def record(self, *_: Any) -> None:
        pass


def guess_always(captioner: Captioner, width: int = 99) -> Captioner:
    assert captioner._verifier is not None
    captioner._verifier._budget = EveryGuess(width)  # type: ignore[assignment]
    return captioner


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Captioner, torch.Tensor]:
    """A captioner of each family in fp32 and embeddings of six images."""
    generator = torch.Generator().manual_seed(4)
    if request.param == "cross_attention":
        directory = tmp_path_factory.mktemp("model")
        make(directory, vision_width=48)
        captioner = load_captioner(directory, device="cpu", precision="fp32")
        return guess_always(captioner), torch.randn(6, 17, 48, generator=generator)
    if request.param == "mini":
        captioner = load_captioner("mini", device="cpu", precision="fp32")
        height, width = captioner.image_spec.height, captioner.image_spec.width
        pixels = np.random.default_rng(0).integers(0, 255, (6, height, width, 3), np.uint8)
        return guess_always(captioner), captioner.encode(pixels)
    captioner = load_captioner(GOLDEN / f"{request.param}.pt", device="cpu", precision="fp32")
    cases = json.loads((GOLDEN / f"{request.param}.json").read_text())["cases"]
    rows = [torch.tensor(case.get("image_embedding") or case["pooler_output"]) for case in cases]
    return guess_always(captioner), torch.stack((rows * 6)[:6])


def make_drafts(tokens: list[int], vocabulary: int, chance: random.Random) -> dict[str, list[int] | None]:
    half = list(tokens)
    half[len(half) // 2] = (half[len(half) // 2] + 1) % vocabulary
    return {
        "none": None,
        "empty": [],
        "right": list(tokens),
        "right, then more": [*tokens, 1, 2, 3],
        "beginning": tokens[: len(tokens) // 2],
        "one wrong": half,
        "one missing": tokens[:2] + tokens[3:],
        "random": [chance.randrange(vocabulary) for _ in range(len(tokens))],
        "absurd": [vocabulary - 1] * 9,
    }


def test_tokens_and_logprobs_stay_with_any_draft(family: tuple[Captioner, torch.Tensor]) -> None:
    captioner, embeddings = family
    plain = captioner.caption_embeddings(embeddings)
    assert [result.passes for result in plain] == [len(result.tokens) for result in plain]
    vocabulary, chance = captioner.info["gpt2"]["vocabulary"], random.Random(5)
    choices = [make_drafts(result.tokens, vocabulary, chance) for result in plain]
    for kind in choices[0]:
        drafts = [choice[kind] for choice in choices]
        alone = [
            captioner.caption_embeddings(embeddings[row : row + 1], drafts=[draft])[0]
            for row, draft in enumerate(drafts)
        ]
        for found in (alone, captioner.caption_embeddings(embeddings, drafts=drafts)):
            assert [result.tokens for result in found] == [result.tokens for result in plain], kind
            assert [result.logprob for result in found] == pytest.approx([r.logprob for r in plain], abs=1e-4)
            assert all(one.passes <= other.passes for one, other in zip(found, plain, strict=True))
        if kind.startswith("right"):
            assert all(result.passes <= 2 for result in alone)


def test_rows_of_one_batch_take_different_drafts(family: tuple[Captioner, torch.Tensor]) -> None:
    captioner, embeddings = family
    plain = [result.tokens for result in captioner.caption_embeddings(embeddings)]
    vocabulary, chance = captioner.info["gpt2"]["vocabulary"], random.Random(6)
    for _ in range(6):
        drafts = [chance.choice(list(make_drafts(tokens, vocabulary, chance).values())) for tokens in plain]
        assert [result.tokens for result in captioner.caption_embeddings(embeddings, drafts=drafts)] == plain


@pytest.mark.parametrize("width", [1, 2, 5])
def test_narrow_passes_and_max_tokens(width: int) -> None:
    captioner = guess_always(load_captioner(GOLDEN / "clipcap_mlp.pt", device="cpu", precision="fp32"), width)
    embeddings = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    for limit in (1, 2, 3, 7, 20):
        plain = captioner.caption_embeddings(embeddings, max_tokens=limit)
        drafts = [[*result.tokens, 4, 4] for result in plain]
        found = captioner.caption_embeddings(embeddings, max_tokens=limit, drafts=drafts)
        assert [result.tokens for result in found] == [result.tokens for result in plain]
        for result in found:
            assert result.passes == -(-len(result.tokens) // (1 + width))


def test_interim_tokens_are_beginnings_of_the_caption() -> None:
    captioner = guess_always(load_captioner(GOLDEN / "clipcap_mlp.pt", device="cpu", precision="fp32"), 2)
    embeddings = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    plain = captioner.caption_embeddings(embeddings)
    partial: list[tuple[int, list[int]]] = []
    drafts = [plain[0].tokens, plain[0].tokens, None]
    captioner.decode(embeddings, on_text=lambda row, tokens: partial.append((row, list(tokens))), drafts=drafts)
    assert partial and all(plain[row].tokens[: len(tokens)] == tokens for row, tokens in partial)


@needs_compiler
@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_kernels_give_the_same_bits_at_any_width(precision: str) -> None:
    decoder = convert(ours(), precision, torch.device("cpu"))
    assert isinstance(decoder.head, PackedLinear)
    torch.manual_seed(3)
    prefix = 0.3 * torch.randn(1, 7, 64)
    tokens = torch.randint(0, 120, (1, 16))
    with torch.inference_mode():
        cache = decoder.new_cache(rows=1, positions=32)
        hidden, _ = decoder.prefill(prefix, [7], cache)
        alone = [hidden] + [decoder.step(tokens[:, step], cache) for step in range(16)]
        for count in (1, 3, 8, 15, 16):
            for rows in (1, 2, 5):
                cache = decoder.new_cache(rows=rows, positions=32)
                decoder.prefill(prefix.expand(rows, -1, -1), [7] * rows, cache)
                wide = decoder.extend(tokens[:, :count].expand(rows, -1), cache)
                for row in wide:
                    assert torch.equal(
                        decoder.logits(row), torch.cat([decoder.logits(one) for one in alone[1 : count + 1]])
                    )


@needs_compiler
def test_int8_tokens_stay_with_any_draft() -> None:
    captioner = guess_always(load_captioner("mini", device="cpu", precision="int8"))
    height, width = captioner.image_spec.height, captioner.image_spec.width
    pixels = np.random.default_rng(1).integers(0, 255, (5, height, width, 3), np.uint8)
    embeddings = captioner.encode(pixels)
    plain = captioner.decode(embeddings)
    chance = random.Random(7)
    choices = [make_drafts(result.tokens, 3000, chance) for result in plain]
    for kind in choices[0]:
        found = captioner.decode(embeddings, drafts=[choice[kind] for choice in choices])
        assert [result.tokens for result in found] == [result.tokens for result in plain], kind


@pytest.mark.parametrize(
    ("drafts", "options", "message"),
    [
        ([[1], [2], [3]], {}, "3 for 2 rows"),
        ([[1]], {}, "1 for 2 rows"),
        ([[1], [120]], {}, "row 1: token 120 is not in the vocabulary"),
        ([[-1], None], {}, "row 0: token -1 is not in the vocabulary"),
        ([[1] * 2000, None], {}, "row 0: 2000 tokens, GPT-2 has positions for"),
        ([["a"], None], {}, "row 0: token ids are integers"),
        (["ab", None], {}, "row 0: a list of token ids or None"),
        ([7, None], {}, "row 0: a list of token ids or None"),
        (7, {}, "a list with a token list or None for each row"),
        ([[1], None], {"beam_size": 3}, "greedy search"),
        ([[1], None], {"temperature": 0.5}, "greedy search"),
    ],
)
def test_bad_drafts(drafts: Any, options: dict[str, Any], message: str) -> None:
    captioner = load_captioner(GOLDEN / "clipcap_mlp.pt", device="cpu", precision="fp32")
    if message.startswith("row 1: token 120"):
        drafts = [[1], [captioner.info["gpt2"]["vocabulary"]]]
        message = "row 1: token"
    with pytest.raises(InputError, match=message) as error:
        captioner.caption_embeddings(torch.zeros(2, 32), drafts=drafts, **options)
    assert "\n" not in str(error.value)


def test_beams_say_their_passes() -> None:
    captioner = load_captioner(GOLDEN / "clipcap_mlp.pt", device="cpu", precision="fp32")
    (result,) = captioner.caption_embeddings(torch.zeros(1, 32), beam_size=3, max_tokens=6)
    assert 1 <= len(result.tokens) <= result.passes <= 6
