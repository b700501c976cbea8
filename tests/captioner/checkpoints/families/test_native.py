"""Our own checkpoints: written, loaded, captioned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from streamcap import load_captioner
from streamcap.captioner.checkpoints import open_checkpoint
from streamcap.captioner.checkpoints.families.native import save_native
from streamcap.captioner.models.mini_encoder import build_mapping, build_vision
from streamcap.errors import InputError
from tests.captioner.tiny_models import generate, gpt2

CONFIG = {
    "vision": {
        "architecture": "staged",
        "stem": 8,
        "widths": [8, 8, 16, 16],
        "depths": [1, 1, 1, 1],
        "strides": [2, 2, 2, 2],
        "outputs": [8, 8, 16, 16],
    },
    "mapping": {
        "architecture": "grid",
        "cells": 4,
        "channels": 16,
        "width": 64,
        "prefix": 3,
        "layers": 1,
        "heads": 4,
    },
    "gpt2": {"n_head": 4},
    "image": {"width": 64, "height": 64, "fit": "squash", "interpolation": "bilinear"},
    "bos_token_id": 119,
    "eos_token_id": 119,
    "max_tokens": 12,
}


def tokenizer() -> str:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:119]
    byte_level = Tokenizer(BPE({letter: number for number, letter in enumerate(letters)}, []))
    byte_level.decoder = decoders.ByteLevel()
    byte_level.add_special_tokens(["<|endoftext|>"])
    text: str = byte_level.to_str()
    return text


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("native") / "small"
    torch.manual_seed(5)
    save_native(
        path,
        config=CONFIG,
        vision=build_vision(CONFIG["vision"]).state_dict(),
        mapping=build_mapping(CONFIG["mapping"]).state_dict(),
        gpt2=gpt2(6).state_dict(),
        tokenizer=tokenizer(),
        dtype=torch.float32,
    )
    return path


def test_captions_equal_transformers_on_same_prefix(directory: Path) -> None:
    captioner = load_captioner(directory, device="cpu", precision="fp32")
    images = [np.random.default_rng(seed).integers(0, 255, (48, 80, 3), np.uint8) for seed in range(4)]
    results = captioner.caption(images)
    model = gpt2(6)
    vision, mapping = build_vision(CONFIG["vision"]).eval(), build_mapping(CONFIG["mapping"]).eval()
    torch.manual_seed(5)
    plain = open_checkpoint(directory)
    assert plain.vision is not None
    vision.load_state_dict(plain.vision.encoder.state_dict())
    mapping.load_state_dict(plain.prompter.mapping.state_dict())
    for image, result in zip(images, results, strict=True):
        fitted = torch.nn.functional.interpolate(
            torch.from_numpy(image).permute(2, 0, 1)[None], (64, 64), mode="bilinear", antialias=True
        )
        with torch.inference_mode():
            prefix = mapping(vision((fitted.float() / 255 - 0.5) / 0.5))[0]
        assert result.tokens == generate(model, prefix, 119, 12)
        assert result.text and "<|endoftext|>" not in result.text
        assert result.logprob < 0


def test_captioner_provides_engine_interface(directory: Path) -> None:
    captioner = load_captioner(directory, device="cpu", precision="fp32")
    assert captioner.image_spec.size == (64, 64) and captioner.clip_length is None
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    embeddings = captioner.encode(pixels)
    assert tuple(embeddings.shape) == (3, 4, 16)
    features = captioner.features(embeddings)
    assert features.dtype == np.float32 and features.shape == (3, 64)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    partial: list[tuple[int, list[int]]] = []
    results = captioner.decode(embeddings, on_text=lambda row, tokens: partial.append((row, list(tokens))))
    assert all(results[row].tokens[: len(tokens)] == tokens for row, tokens in partial) and partial
    assert captioner.info["family"] == "streamcap"
    assert json.dumps(captioner.info)
    assert captioner.decode(embeddings[:0]) == []


def test_invalid_config_is_one_line(directory: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    config = json.loads((directory / "config.json").read_text())

    def loading(**changes: object) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(InputError) as error:
            load_captioner(tmp_path, device="cpu", precision="fp32")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "image is missing" in loading(image=None)
    assert "'transformer' is unknown" in loading(vision={"architecture": "transformer"})
    uneven = {"architecture": "staged", "stem": 4, "widths": [8], "depths": [1], "strides": [2], "outputs": [4, 4]}
    assert "a staged encoder needs equally many widths, depths, strides and outputs" in loading(vision=uneven)
    assert "cells" in loading(mapping={"architecture": "grid"})
    assert "vision.stages" in loading(vision=CONFIG["vision"] | {"widths": [8, 8, 8, 16]})
    assert "image fit 'stretch'" in loading(image={"width": 64, "height": 64, "fit": "stretch"})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        load_captioner(tmp_path, device="cpu", precision="fp32")
