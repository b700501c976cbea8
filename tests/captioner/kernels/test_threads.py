"""How many threads the kernels use."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from streamcap import load_captioner
from streamcap.captioner.kernels import packed, packed_encoder, threads
from streamcap.captioner.kernels.threads import SMALL_MODEL, limited, num_threads, useful_threads
from streamcap.engine.live import LiveModel


def test_num_threads_is_that_of_torch() -> None:
    assert num_threads() == torch.get_num_threads()


def test_limited_is_undone_and_never_raises_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    with limited(2):
        with limited(3):
            assert num_threads() == 2
        with limited(1):
            assert num_threads() == 1
        assert num_threads() == 2
    assert num_threads() == 4


def test_small_model_has_a_thread_for_each_image() -> None:
    assert [useful_threads(SMALL_MODEL - 1, rows) for rows in (1, 3)] == [1, 3]
    assert useful_threads(SMALL_MODEL, 1) == sys.maxsize


@pytest.mark.slow
def test_live_mini_captions_one_image_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    used: set[int] = set()

    def noted() -> int:
        used.add(threads.num_threads())
        return 1

    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for module in (packed, packed_encoder):
        monkeypatch.setattr(module, "num_threads", noted)
    captioner = load_captioner("mini", device="cpu", precision="fp32")
    live = LiveModel(captioner)
    live.warm_up()
    assert used == {1}
    used.clear()
    size = captioner.image_spec
    live.decode(live.encode(np.zeros((3, size.height, size.width, 3), np.uint8)), streams=["a", "b", "c"])
    assert used == {3}
