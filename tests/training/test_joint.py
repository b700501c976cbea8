"""One encoder, mapping and decoder trained at once, on made-up pictures, teacher and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from streamcap.captioner import load_captioner
from streamcap.picture import PictureSpec
from streamcap.training import drawn, teacher
from streamcap.training.export import export_native
from streamcap.training.heads import Words
from streamcap.training.joint import JointSettings, JointTrainer, RealPictures
from streamcap.training.recipes.judging import rank
from streamcap.training.teacher import Lesson
from streamcap.training.text import make_tokenizer
from streamcap.training.views import crop

PICTURE = PictureSpec(64, 64, "squash", "area", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CONFIG = {
    "vision": {"architecture": "resnet", "stem": 4, "widths": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "mapping": {"architecture": "grid", "cells": 4, "channels": 16, "width": 64, "prefix": 2, "layers": 1, "heads": 2},
    "gpt2": {"vocab_size": 320, "n_positions": 40, "n_embd": 64, "n_layer": 1, "n_head": 1}
    | {"bos_token_id": 0, "eos_token_id": 0},
}


@pytest.fixture(scope="module")
def data():
    """Eight pictures and eight drawn scenes."""
    rng = np.random.default_rng(0)
    scenes = drawn.draw_pictures(8, seed=3)
    tokenizer = make_tokenizer(scenes.sentences, 320)
    lesson = Lesson(
        teacher.random_boxes(8, 1),
        rng.integers(-128, 128, (8, teacher.MAP_CHANNELS, 7, 7), np.int8),
        rng.integers(-128, 128, (8, teacher.POOLED_CHANNELS), np.int8),
        rng.normal(size=(8, teacher.CLASSES)).astype(np.float16),
    )
    real = RealPictures(rng.integers(0, 256, (8, 96, 96, 3), np.uint8), [[[5, 6], [7]]] * 8, [lesson])
    return real, scenes, tokenizer


def make(data, **settings) -> JointTrainer:
    real, scenes, tokenizer = data
    sentences = [encoded.ids for encoded in tokenizer.encode_batch(scenes.sentences)]
    chosen = JointSettings(**{"steps": 6, "real": 4, "scenes": 4, "captions": 2, "warmup": 2} | settings)
    return JointTrainer(CONFIG, PICTURE, chosen, real, scenes, sentences, stop=0)


def test_every_part_of_the_loss_has_its_say_and_the_sum_goes_down(data) -> None:
    trainer = make(data, steps=6, learning_rate=3e-3, warmup=1)
    parts = [trainer.run_step() for _ in range(6)]
    assert set(parts[0]) == {"teacher", "captions", "sentences", "shown"}
    assert sum(parts[-1].values()) < sum(parts[0].values())


def test_words_in_no_order_are_learned_where_asked_for_and_sentences_left_out(data) -> None:
    parts = make(data, words=0.5, sentences=0.0, captions=0).run_step()
    assert set(parts) == {"teacher", "words", "shown"}


def test_the_words_of_a_picture_are_the_shares_of_its_telling_tokens() -> None:
    told = Words([[[1, 5, 6], [1, 5]], [[1, 7]], [[1]]], 8)
    shares = told.shares(np.array([0, 2]))
    # Token 1 is in the captions of every picture and says nothing of any.
    assert torch.allclose(shares[0], torch.tensor([0, 0, 0, 0, 0, 2 / 3, 1 / 3, 0]))
    assert not shares[1].any()


def test_a_stage_goes_on_exactly_where_it_was_saved(data, tmp_path: Path) -> None:
    whole = make(data)
    curve = [sum(whole.run_step().values()) for _ in range(4)]
    first = make(data)
    again = [sum(first.run_step().values()) for _ in range(2)]
    first.save(tmp_path / "state.pt")
    second = make(data, seed=0)
    second.restore(tmp_path / "state.pt")
    again += [sum(second.run_step().values()) for _ in range(2)]
    assert again == curve


def test_the_exported_mean_says_what_the_model_in_training_would(data, tmp_path: Path) -> None:
    trainer = make(data, real=0)
    trainer.run_step()
    export_native(tmp_path, trainer.mean, CONFIG, PICTURE, data[2])
    captioner = load_captioner(str(tmp_path), device="cpu")
    pixels = drawn.draw_pictures(1, seed=5).pixels[0]
    small = np.array(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BOX))
    mean, std = np.array(PICTURE.mean), np.array(PICTURE.std)
    planes = torch.from_numpy((small / 255 - mean) / std).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = trainer.mean.vision(planes)
    # The shipped weights are halves, their norms folded.
    assert torch.allclose(captioner.encode(small[None]), expected, atol=2e-2)


def test_a_crop_is_the_part_it_names_and_a_flip_mirrors_it() -> None:
    picture = np.zeros((1, 8, 8, 3), np.uint8)
    picture[:, :4, 4:] = 255
    quarter = crop(picture, torch.tensor([[0.5, 0.0, 1.0, 0.5]]), torch.tensor([False]), 4)
    assert quarter[0, :, 1:, :-1].min() == 1
    mirrored = crop(picture, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([True]), 8)
    assert torch.equal(mirrored[0, :, :4, :4] > 0.5, torch.ones(3, 4, 4, dtype=torch.bool))
    assert mirrored[0, :, :, 5:].max() == 0


def test_drawn_pictures_are_the_same_for_one_seed_and_say_what_they_show() -> None:
    one, other = drawn.draw_pictures(4, seed=7), drawn.draw_pictures(4, seed=7)
    assert np.array_equal(one.pixels, other.pixels)
    assert one.sentences == other.sentences
    values = drawn.values()
    colour = drawn.ATTRIBUTES.index("colour")
    for sentence, attributes in zip(one.sentences, one.attributes, strict=True):
        assert str(values[colour][attributes[colour]]) in sentence


def test_drawn_scenes_decide_first_and_real_pictures_once_enough_are_right() -> None:
    poor, good = {"scenes_exact": 0.9, "dev_cider": 0.5}, {"scenes_exact": 0.96, "dev_cider": 0.1}
    better = {"scenes_exact": 0.95, "dev_cider": 0.2}
    assert rank(poor) < rank(good) < rank(better)
