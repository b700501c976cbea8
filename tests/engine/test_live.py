"""The captioner as the engine's model: a stream's earlier captions are drafts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from streamcap import load_captioner
from streamcap.captioner import Captioner
from streamcap.engine.live import LiveModel

pytestmark = pytest.mark.slow


def images(captioner: Captioner, seeds: list[int]) -> torch.Tensor:
    height, width = captioner.image_spec.height, captioner.image_spec.width
    return captioner.encode(
        np.stack([np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8) for seed in seeds])
    )


def test_live_model_needs_fewer_passes_for_what_it_has_seen() -> None:
    captioner = load_captioner("mini", device="cpu", precision="fp32")
    live = LiveModel(captioner)
    live.warm_up()
    embeddings = images(captioner, [1, 2])
    plain = captioner.decode(embeddings)
    before = replace(live.draft_statistics)
    partial: list[tuple[int, list[int]]] = []
    for _ in range(4):
        results = live.decode(
            embeddings, streams=["door", "yard"], on_text=lambda row, tokens: partial.append((row, list(tokens)))
        )
        assert [result.text for result in results] == [result.text for result in plain]
        assert all(plain[row].tokens[: len(tokens)] == tokens for row, tokens in partial)
    tokens = 4 * sum(len(result.tokens) for result in plain)
    statistics = live.draft_statistics
    assert statistics.tokens - before.tokens == tokens
    assert statistics.passes - before.passes < tokens
    assert 0 < statistics.accepted <= statistics.proposed and statistics.dropped == 0
    assert [len(live._history.stream(name)._own) for name in ("door", "yard")] == [1, 1]


def test_live_model_drops_a_guess_outside_the_vocabulary() -> None:
    captioner = load_captioner("mini", device="cpu", precision="fp32")
    live = LiveModel(captioner)
    embeddings = images(captioner, [3])
    (plain,) = captioner.decode(embeddings)
    live._history.stream("door").add([10**6, 5])
    (result,) = live.decode(embeddings, streams=["door"])
    assert result.text == plain.text and live.draft_statistics.dropped >= 1
