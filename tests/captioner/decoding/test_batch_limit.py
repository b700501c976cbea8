"""A device whose memory runs out takes fewer rows at once, and the captions stay the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamcap import load_captioner
from streamcap.captioner.decoding.batch_limit import GROW_SECONDS, BatchLimit
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.vision import Vision
from streamcap.captioner.options import SearchOptions

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
NO_ROOM = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture
def room_for(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets GPT-2's passes and the vision encoder take so many rows and no more."""

    def limit(rows: int) -> None:
        extend, encode = GPT2.extend, Vision.encode

        def narrow_extend(self: GPT2, tokens: torch.Tensor, *more: Any) -> torch.Tensor:
            if len(tokens) > rows:
                raise NO_ROOM
            return extend(self, tokens, *more)

        def narrow_encode(self: Vision, pixels: torch.Tensor) -> torch.Tensor:
            if len(pixels) > rows:
                raise NO_ROOM
            return encode(self, pixels)

        monkeypatch.setattr(GPT2, "extend", narrow_extend)
        monkeypatch.setattr(Vision, "encode", narrow_encode)

    return limit


@pytest.mark.parametrize("beams", [1, 3])
def test_decode_halves_batch_when_out_of_memory(room_for: Any, caplog: pytest.LogCaptureFixture, beams: int) -> None:
    embeddings = torch.randn(7, 32, generator=torch.Generator().manual_seed(3))
    expected = load_captioner(GOLDEN / "clipcap_mlp.pt", device="cpu", precision="fp32").caption_embeddings(
        embeddings, beams
    )
    captioner = load_captioner(GOLDEN / "clipcap_mlp.pt", device="cpu", precision="fp32")
    room_for(3)
    with caplog.at_level(logging.WARNING):
        found = captioner.caption_embeddings(embeddings, beams)
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    messages = [message for message in caplog.messages if "out of memory on cpu; using batches of " in message]
    assert messages
    caplog.clear()
    captioner.caption_embeddings(embeddings, beams)
    assert not caplog.messages, "the smaller batch size is kept"
    room_for(0)
    with pytest.raises(torch.OutOfMemoryError):
        captioner.caption_embeddings(embeddings, beams)


def test_continuous_decoder_restarts_unfinished_rows(room_for: Any) -> None:
    embeddings = torch.randn(5, 32, generator=torch.Generator().manual_seed(3))
    captioner = load_captioner(GOLDEN / "clipcap_mlp.pt", device="cpu", precision="fp32")
    expected = [one.tokens for one in captioner.caption_embeddings(embeddings)]
    room_for(2)
    decoder = captioner.decoder(SearchOptions())
    found: dict[int, list[int]] = {}

    def step() -> None:
        found.update({key: result.tokens for key, result in decoder.step()})

    for number in range(2):
        decoder.add(number, embeddings[number])
    for _ in range(3):
        step()
    for number in range(2, 5):
        decoder.add(number, embeddings[number])
    decoder.drop(3)
    while decoder.active:
        step()
    assert found == {number: expected[number] for number in (0, 1, 2, 4)}
    decoder.add(5, embeddings[0])
    room_for(0)
    with pytest.raises(torch.OutOfMemoryError):
        while decoder.active:
            step()
    # What has failed can still be given up.
    assert (decoder.drop(5), decoder.drop(5), decoder.active) == (True, False, 0)


def test_encode_halves_batch_when_out_of_memory(room_for: Any) -> None:
    captioner = load_captioner("mini", device="cpu", precision="fp32")
    spec = captioner.image_spec
    pixels = np.random.default_rng(0).integers(0, 255, (5, spec.height, spec.width, 3), np.uint8)
    expected = captioner.encode(pixels)
    room_for(2)
    assert torch.allclose(captioner.encode(pixels), expected, atol=1e-4)
    room_for(0)
    with pytest.raises(torch.OutOfMemoryError):
        captioner.encode(pixels)


def test_batch_limit_minimum_rows() -> None:
    tried: list[int] = []

    def never(max_rows: int) -> None:
        tried.append(max_rows)
        raise NO_ROOM

    with pytest.raises(torch.OutOfMemoryError):
        BatchLimit(64, "beams", torch.device("cpu")).run(40, never, min_rows=3)
    assert tried == [64, 20, 10, 5, 3]


def test_rows_grow_again_slowly() -> None:
    now, room_rows, tried = 0.0, 8, list[int]()

    def work(max_rows: int) -> int:
        tried.append(max_rows)
        if max_rows > room_rows:
            raise NO_ROOM
        return max_rows

    room = BatchLimit(16, "captions", torch.device("cpu"), lambda: now)
    assert room.run(16, work) == 8
    now = GROW_SECONDS - 1
    assert room.run(16, work) == 8
    now = GROW_SECONDS
    assert room.run(16, work) == 8 and tried[-2:] == [16, 8]
    # That was too soon: it takes twice as long.
    now += 2 * GROW_SECONDS - 1
    room_rows = 16
    assert room.run(16, work) == 8
    now += 1
    assert room.run(16, work) == 16 == room.run(16, work)
