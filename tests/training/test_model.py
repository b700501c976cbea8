"""Packed captions give the same logits and loss as separate rows."""

import pytest
import torch
from torch import nn

from streamcap.training.gpt2 import build_gpt2
from streamcap.training.model import CaptionModel, pack, packed_logits

CONFIG = {"vocab_size": 40, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
CONFIG |= {"bos_token_id": 0, "eos_token_id": 0}
CAPTIONS = [[[5, 6, 7], [9, 8]], [[1, 2, 3, 4, 5, 6, 7]], [[11], [12, 13], [14, 15, 16]]]


@pytest.fixture
def gpt():
    torch.manual_seed(0)
    return build_gpt2(CONFIG).eval()


def test_packed_captions_equal_separate_logits(gpt) -> None:
    prefix = torch.randn(3, 4, 32)
    packed = pack(CAPTIONS, 4, stop=0)
    with torch.no_grad():
        logits = packed_logits(gpt, prefix, packed)
        start = 0
        for row, captions in enumerate(CAPTIONS):
            for caption in captions:
                embedded = gpt.transformer.wte(torch.tensor([caption]))
                separate = gpt(inputs_embeds=torch.cat((prefix[row : row + 1], embedded), 1)).logits[0, 3:]
                assert torch.allclose(logits[start : start + len(separate)], separate, atol=1e-5)
                assert packed.targets[start : start + len(separate)].tolist() == [*caption, 0]
                start += len(separate)
    assert start == len(logits)


def test_truncated_caption_has_no_stop_target(gpt) -> None:
    prefix = torch.randn(1, 4, 32)
    packed = pack([[[5, 6, 7], [9, 8]]], 4, stop=0, max_tokens=3)
    assert packed.targets.tolist() == [5, 6, 7, 9, 8, 0]
    assert packed.owners.tolist() == [0, 0, 0, 1, 1, 1]
    complete = pack([[[5, 6, 7], [9, 8]]], 4, stop=0)
    with torch.no_grad():
        truncated, logits = packed_logits(gpt, prefix, packed), packed_logits(gpt, prefix, complete)
    assert torch.allclose(truncated, logits[[0, 1, 2, 4, 5, 6]], atol=1e-5)


def test_padding_does_not_affect_loss(gpt) -> None:
    model = CaptionModel(None, nn.Identity(), gpt)
    prefix = torch.randn(2, 4, 32)
    with torch.no_grad():
        both = model(prefix, pack([[[1]], [[2, 3, 4, 5, 6]]], 4, 0))
        first = model(prefix[:1], pack([[[1]]], 4, 0))
        second = model(prefix[1:], pack([[[2, 3, 4, 5, 6]]], 4, 0))
    # 2 targets in the first row, 6 in the second, the stop tokens included
    assert both.item() == pytest.approx((2 * first.item() + 6 * second.item()) / 8, abs=1e-5)
