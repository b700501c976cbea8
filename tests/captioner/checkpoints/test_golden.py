"""The tokens that the original code of the published captioners printed, on tiny random weights."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from streamcap import Captioner, load_captioner

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json"))


@cache
def golden(name: str) -> tuple[Captioner, list[dict[str, Any]]]:
    return load_captioner(GOLDEN / f"{name}.pt", device="cpu", precision="fp32"), json.loads(
        (GOLDEN / f"{name}.json").read_text()
    )["cases"]


def embedding(case: dict[str, Any]) -> torch.Tensor:
    return torch.tensor(case.get("image_embedding") or case["pooler_output"])


@pytest.mark.parametrize("name", NAMES)
def test_greedy_single_row(name: str) -> None:
    captioner, cases = golden(name)
    for case in cases:
        (result,) = captioner.caption_embeddings(embedding(case)[None])
        assert result.tokens == case.get("greedy", case.get("tokens"))
        assert result.text == ""


@pytest.mark.parametrize("name", NAMES)
def test_greedy_batch(name: str) -> None:
    captioner, cases = golden(name)
    results = captioner.caption_embeddings(torch.stack([embedding(case) for case in cases] * 6))
    assert [result.tokens for result in results] == [case.get("greedy", case.get("tokens")) for case in cases] * 6


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "videocaptioner_net"])
def test_beam_search(name: str) -> None:
    captioner, cases = golden(name)
    for case in cases:
        (result,) = captioner.caption_embeddings(embedding(case)[None], beam_size=5)
        assert result.tokens == case["beam5"]
    results = captioner.caption_embeddings(torch.stack([embedding(case) for case in cases] * 2), beam_size=5)
    assert [result.tokens for result in results] == [case["beam5"] for case in cases] * 2


def test_continuous_batching_keeps_tokens() -> None:
    captioner, cases = golden("clipcap_mlp")
    decoder = captioner.decoder(max_rows=3)
    found = {}
    waiting = list(enumerate(cases))
    while waiting or decoder.active:
        if waiting:
            number, case = waiting.pop(0)
            decoder.add(number, embedding(case))
        found |= dict(decoder.step())
        found |= dict(decoder.step())
    assert {number: result.tokens for number, result in found.items()} == {
        number: case["greedy"] for number, case in enumerate(cases)
    }


def test_pooled_output_and_tokens_from_pixels() -> None:
    captioner, cases = golden("videocaptioner_net")
    tower = captioner._tower()
    pixels = torch.tensor([case["pixel_values"] for case in cases])
    with torch.inference_mode():
        pooled = tower(pixels)
    torch.testing.assert_close(pooled, torch.stack([embedding(case) for case in cases]), atol=1e-4, rtol=1e-4)
    assert [result.tokens for result in captioner.decode(pooled)] == [case["tokens"] for case in cases]
