"""VisionEncoderDecoderModel: ViT + GPT-2 with cross-attention, as `transformers` saves and runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

from streamcap import Captioner, load_captioner
from streamcap.errors import InputError


def make(directory: Path, *, vision_width: int = 48, seed: int = 0) -> VisionEncoderDecoderModel:
    torch.manual_seed(seed)
    encoder = ViTConfig(
        hidden_size=vision_width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        initializer_range=0.2,
    )
    decoder = GPT2Config(
        vocab_size=90,
        n_positions=40,
        n_embd=64,
        n_layer=2,
        n_head=4,
        add_cross_attention=True,
        bos_token_id=89,
        eos_token_id=17,
        initializer_range=0.25,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 89, 17, 17
    model = VisionEncoderDecoderModel(config=config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # a freshly made model has none, and a lost bias would go unseen
            torch.nn.init.normal_(parameter, std=0.1)
    model.generation_config.decoder_start_token_id = 89
    model.generation_config.eos_token_id = 17
    model.generation_config.pad_token_id = 17
    model.generation_config.bos_token_id = 89
    model.save_pretrained(directory)
    return model


@pytest.fixture(scope="module", params=[64, 48], ids=["same-width", "projected"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[VisionEncoderDecoderModel, Captioner, Path]:
    directory = tmp_path_factory.mktemp("ved") / "model"
    model = make(directory, vision_width=request.param)
    return model, load_captioner(directory, device="cpu", precision="fp32"), directory


def test_greedy_tokens_equal_generate(both: tuple[VisionEncoderDecoderModel, Captioner, Path]) -> None:
    model, captioner, _ = both
    pixels = np.random.default_rng(1).integers(0, 255, (6, 32, 32, 3), np.uint8)
    normalized = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    expected = []
    for row in normalized:
        out = model.generate(row[None], max_new_tokens=19, do_sample=False, num_beams=1)[0].tolist()
        expected.append(out[1:])
    results = captioner.caption(list(pixels), max_tokens=19)
    assert [result.tokens for result in results] == expected
    assert [captioner.caption([image], max_tokens=19)[0].tokens for image in pixels] == expected
    with torch.inference_mode():
        states = model.encoder(normalized).last_hidden_state
    assert [result.tokens for result in captioner.caption_embeddings(states, max_tokens=19)] == expected
    assert len(captioner.caption(list(pixels), beam_size=3)) == 6


def test_transformers_shards_load_alike(
    both: tuple[VisionEncoderDecoderModel, Captioner, Path], tmp_path: Path
) -> None:
    model, captioner, _ = both
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    pixels = list(np.random.default_rng(2).integers(0, 255, (3, 32, 32, 3), np.uint8))
    sharded = load_captioner(tmp_path, device="cpu", precision="fp32")
    assert [one.tokens for one in sharded.caption(pixels)] == [one.tokens for one in captioner.caption(pixels)]


def test_legacy_key_names_load(both: tuple[VisionEncoderDecoderModel, Captioner, Path], tmp_path: Path) -> None:
    model, captioner, directory = both
    renamed = {}
    for key, value in model.state_dict().items():
        for new, old in (
            ("encoder.layers.", "encoder.encoder.layer."),
            ("attention.q_proj", "attention.attention.query"),
            ("attention.k_proj", "attention.attention.key"),
            ("attention.v_proj", "attention.attention.value"),
            ("attention.o_proj", "attention.output.dense"),
        ):
            key = key.replace(new, old)
        if key.startswith("encoder."):
            key = key.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        renamed[key] = value
    renamed["decoder.transformer.h.0.crossattention.bias"] = torch.ones(1, 1, 40, 40)
    torch.save(renamed, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((directory / "config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": 32, "do_resize": True, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    pixels = np.random.default_rng(2).integers(0, 255, (2, 32, 32, 3), np.uint8)
    old = load_captioner(tmp_path, device="cpu", precision="fp32")
    assert [r.tokens for r in old.caption(list(pixels))] == [r.tokens for r in captioner.caption(list(pixels))]
    assert old.image_spec.fit == "squash" and old.image_spec.interpolation == "bilinear"


def test_continuous_decoding_with_cross_attention(both: tuple[VisionEncoderDecoderModel, Captioner, Path]) -> None:
    _, captioner, _ = both
    embeddings = captioner.encode(np.random.default_rng(3).integers(0, 255, (5, 32, 32, 3), np.uint8))
    expected = {number: result.tokens for number, result in enumerate(captioner.decode(embeddings))}
    decoder = captioner.decoder(max_rows=2)
    found = {}
    for number in range(5):
        decoder.add(number, embeddings[number])
        found |= {key: result.tokens for key, result in decoder.step()}
    while decoder.active:
        found |= {key: result.tokens for key, result in decoder.step()}
    assert found == expected


def test_invalid_directory_is_refused(both: tuple[VisionEncoderDecoderModel, Captioner, Path], tmp_path: Path) -> None:
    _, _, directory = both
    config = json.loads((directory / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"contains neither model\.safetensors nor"):
        load_captioner(tmp_path, device="cpu", precision="fp32")
    config["encoder"]["model_type"] = "swin"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="encoder is 'swin'; only vit"):
        load_captioner(tmp_path, device="cpu", precision="fp32")
    with pytest.raises(InputError, match="from its directory"):
        file = tmp_path / "loose.pt"
        torch.save({"decoder.transformer.wte.weight": torch.zeros(2, 2)}, file)
        load_captioner(file, device="cpu", precision="fp32")
