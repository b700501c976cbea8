"""Beams, sampling and mean log-probability, against a search written out in the open."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2LMHeadModel

from streamcap import Captioner, load_captioner
from streamcap.captioner import SearchOptions
from streamcap.captioner.checkpoints.decoder import load_gpt2
from streamcap.captioner.decoding.batch import StopCriteria
from streamcap.captioner.decoding.beam import beam_search
from streamcap.captioner.decoding.sampling import TopPSampler
from streamcap.captioner.models.prompt import Prompt
from tests.captioner.tiny_models import gpt2

STOP = 56
GOLDEN = Path(__file__).parents[1] / "golden"


def score(model: GPT2LMHeadModel, prefix: torch.Tensor, tokens: list[int]) -> float:
    """Mean log-probability of `tokens` after `prefix`, by one whole forward pass of `transformers`."""
    with torch.inference_mode():
        whole = torch.cat((prefix, model.transformer.wte(torch.tensor(tokens))))
        logprobs = model(inputs_embeds=whole[None]).logits[0, len(prefix) - 1 : -1].log_softmax(-1)
    return float(logprobs.gather(1, torch.tensor(tokens)[:, None]).mean())


def plain_beams(model: GPT2LMHeadModel, prefix: torch.Tensor, beams: int, limit: int) -> list[int]:
    """Beam search ranked by mean log-probability, without a cache and one hypothesis at a time."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(limit):
        found: list[tuple[float, list[int]]] = []
        for total, tokens in live:
            if tokens and tokens[-1] == STOP:
                found.append((total, tokens))
                continue
            with torch.inference_mode():
                whole = torch.cat((prefix, model.transformer.wte(torch.tensor(tokens, dtype=torch.int64))))
                following = model(inputs_embeds=whole[None]).logits[0, -1].log_softmax(-1).tolist()
            found += [(total + logprob, [*tokens, token]) for token, logprob in enumerate(following)]
        live = sorted(found, key=lambda pair: -pair[0] / len(pair[1]))[:beams]
        if all(tokens[-1] == STOP for _, tokens in live):
            break
    return live[0][1]


def test_beams_of_different_prefix_lengths() -> None:
    model = gpt2(11)
    decoder = load_gpt2(model.state_dict(), model.config.to_dict(), "test", prefix="")
    torch.manual_seed(1)
    prefixes = [torch.randn(length, 64) for length in (4, 1, 6)]
    found = beam_search(decoder, [Prompt(prefix) for prefix in prefixes], StopCriteria(9, frozenset({STOP})), 4)
    assert [best.tokens for best in found] == [plain_beams(model, prefix, 4, 9) for prefix in prefixes]
    for best, prefix in zip(found, prefixes, strict=True):
        assert best.logprob == pytest.approx(score(model, prefix, best.tokens), abs=1e-4)


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return load_captioner(GOLDEN / "clipcap_transformer.pt", device="cpu", precision="fp32")


def test_greedy_logprob_is_mean_of_token_logprobs(captioner: Captioner) -> None:
    torch.manual_seed(0)
    embedding = torch.randn(2, 32)
    gpt = captioner._gpt2
    prefixes = [prompt.prefix for prompt in captioner._prompts(embedding)]
    for result, prefix in zip(captioner.caption_embeddings(embedding, max_tokens=9), prefixes, strict=True):
        cache = gpt.new_cache(rows=1, positions=32)
        with torch.inference_mode():
            hidden, _ = gpt.prefill(prefix[None], [len(prefix)], cache)
            total = 0.0
            for token in result.tokens:
                total += float(gpt.logits(hidden).log_softmax(-1)[0, token])
                hidden = gpt.step(torch.tensor([token]), cache)
        assert result.logprob == pytest.approx(total / len(result.tokens), abs=1e-5)


def test_sampling_depends_on_seed_not_on_batch(captioner: Captioner) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 32)
    one = captioner.caption_embeddings(x, temperature=1.0, seed=7, max_tokens=12)
    assert [r.tokens for r in captioner.caption_embeddings(x, temperature=1.0, seed=7, max_tokens=12)] == [
        r.tokens for r in one
    ]
    assert captioner.caption_embeddings(x[:1], temperature=1.0, seed=7, max_tokens=12)[0].tokens == one[0].tokens
    assert [r.tokens for r in captioner.caption_embeddings(x, temperature=1.0, seed=8, max_tokens=12)] != [
        r.tokens for r in one
    ]


def test_small_top_p_and_temperature_are_greedy(captioner: Captioner) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 32)
    greedy = [r.tokens for r in captioner.caption_embeddings(x, max_tokens=12)]
    assert [r.tokens for r in captioner.caption_embeddings(x, temperature=1.0, top_p=1e-6, max_tokens=12)] == greedy
    assert [r.tokens for r in captioner.caption_embeddings(x, temperature=1e-6, max_tokens=12)] == greedy


def test_sampling_follows_distribution() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0, -30.0]]).repeat(4000, 1)
    sampler = TopPSampler(0.5, 1.0, seed=3)
    drawn = sampler.sample(logits, [sampler.make_rng(number) for number in range(4000)])
    share = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(share, (logits[0] / 0.5).softmax(0), atol=0.03, rtol=0)
    narrow = TopPSampler(0.5, 0.9, seed=3)
    drawn = narrow.sample(logits, [narrow.make_rng(number) for number in range(4000)])
    assert set(drawn.tolist()) == {0, 2}, "0.867 is below 0.9, so the second token is kept and the third is not"


def test_interim_tokens_grow(captioner: Captioner) -> None:
    torch.manual_seed(0)
    partial: dict[int, list[list[int]]] = {}
    results = captioner.decode(
        torch.randn(2, 32),
        SearchOptions(max_tokens=6),
        on_text=lambda row, tokens: partial.setdefault(row, []).append(list(tokens)),
    )
    for row, result in enumerate(results):
        assert partial.get(row, []) == [result.tokens[:count] for count in range(2, len(result.tokens))]
