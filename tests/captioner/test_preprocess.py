"""Images as each model's own processor makes them, and bad ones refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from streamcap.captioner.checkpoints.towers import clip_directory
from streamcap.captioner.models.vision import CLIP_MEAN, CLIP_STD
from streamcap.captioner.preprocess import fit_image, fit_images, image_list, to_pixels
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec

CLIP = ImageSpec(224, 224, "crop", "bicubic", CLIP_MEAN, CLIP_STD)
LEVELS = 2
"""Stated tolerance: levels of 255, against the models' own processors."""


def image(width: int, height: int) -> np.ndarray:
    """Smooth shapes and hard edges."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / (9 + 7 * c) + y / (13 - 3 * c)) for c in range(3)]
    out = np.stack(waves, -1)
    out[(x // 40 + y // 25) % 5 == 0] = (255, 0, 90)
    return out.astype(np.uint8)


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (640, 480), (333, 517), (224, 224), (100, 60), (225, 224)])
def test_clip_preprocessing_equals_clip_processor(width: int, height: int) -> None:
    raw = image(width, height)
    theirs = CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size=224)(
        Image.fromarray(raw), return_tensors="np"
    )["pixel_values"][0]
    ours = (fit_image(raw, CLIP) / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    difference = np.abs(ours.transpose(2, 0, 1) - theirs) * 255 * np.array(CLIP_STD)[:, None, None]
    assert difference.max() <= LEVELS + 1e-3
    assert difference.mean() < 0.2


def test_squash_equals_pil() -> None:
    raw = image(1280, 720)
    theirs = np.asarray(Image.fromarray(raw).resize((192, 192), Image.Resampling.BILINEAR)).astype(int)
    ours = fit_image(raw, ImageSpec(192, 192, "squash", "bilinear")).astype(int)
    assert np.abs(ours - theirs).max() <= LEVELS


def test_pad_keeps_whole_image() -> None:
    ours = fit_image(image(200, 100), ImageSpec(64, 64, "pad", "area"))
    assert ours.shape == (64, 64, 3)
    assert (ours[:16] == 128).all() and (ours[48:] == 128).all() and not (ours[16:48] == 128).all()


def test_gray16_is_scaled_not_clipped() -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    pixels = to_pixels(Image.fromarray(levels * 257))
    assert (pixels == levels[..., None]).all()


def test_pil_read_only_and_flipped_arrays() -> None:
    raw = image(80, 60)
    locked = raw.copy()
    locked.flags.writeable = False
    spec = ImageSpec(32, 32, "squash", "bilinear")
    gray = Image.fromarray(raw).convert("L")
    assert fit_images([raw, locked, raw[:, ::-1], gray, Image.fromarray(raw)], spec).shape == (5, 32, 32, 3)
    assert (fit_image(locked, spec) == fit_image(raw, spec)).all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8 of shape \(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        ("cat.jpg", "not a str"),
    ],
)
def test_invalid_image_is_refused(bad: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_pixels(bad, "image 3")  # type: ignore[arg-type]


@pytest.mark.parametrize("whole", [True, False], ids=["CLIPModel", "vision-part"])
def test_clip_directory_equals_transformers(tmp_path: Path, whole: bool) -> None:
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=32,
        patch_size=8,
        projection_dim=24,
        initializer_factor=5.0,
    )
    pixels = torch.randn(3, 3, 32, 32)
    if whole:
        text = CLIPTextConfig(vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=1)
        text.num_attention_heads = 2
        model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=24))
        model.eval().save_pretrained(tmp_path)
        with torch.inference_mode():
            out = model.vision_model(pixels)
            projected = model.visual_projection(out.pooler_output)
    else:
        part = CLIPVisionModelWithProjection(vision).eval()
        part.save_pretrained(tmp_path)
        with torch.inference_mode():
            projected = part(pixels).image_embeds
    tower = clip_directory(tmp_path, "projected")
    assert tower.width == 24 and tower.image_spec == ImageSpec(32, 32, "crop", "bicubic", CLIP_MEAN, CLIP_STD)
    with torch.inference_mode():
        torch.testing.assert_close(tower(pixels), projected, atol=1e-4, rtol=1e-4)
        assert clip_directory(tmp_path, "pooled")(pixels).shape == (3, 48)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 40, "do_center_crop": False}))
    with pytest.raises(InputError, match="processor produces 40x40 pixels, the model takes 32x32"):
        clip_directory(tmp_path, "projected")


@pytest.mark.parametrize("one", [Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8)])
def test_one_image_is_no_list(one: object) -> None:
    with pytest.raises(InputError, match=r"not one image; write \[image\]"):
        image_list(one)
    assert image_list([one]) == [one]
    with pytest.raises(InputError, match="not a NoneType"):
        image_list(None)
