"""One encoder, mapping and decoder trained at once, on made-up images, teacher and all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from streamcap.captioner import load_captioner
from streamcap.errors import InputError
from streamcap.training.data.text import make_tokenizer
from streamcap.training.export import export_native
from streamcap.training.mini import synthetic
from streamcap.training.mini.augment import crop, random_boxes
from streamcap.training.mini.stages import joint
from streamcap.training.mini.stages.joint import JointOptions, JointTrainer, RealImages
from streamcap.training.mini.validation import rank
from tests.training.fakes import CONFIG, PICTURE, Colors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data():
    """Eight images and eight drawn scenes."""
    scenes = synthetic.draw_pictures(8, seed=3)
    tokenizer = make_tokenizer(scenes.sentences, 320)
    real = RealImages(synthetic.draw_pictures(8, seed=4).pixels, [[[5, 6], [7]]] * 8)
    return real, scenes, tokenizer


def make(data, teacher=None, **options) -> JointTrainer:
    real, scenes, tokenizer = data
    sentences = [encoded.ids for encoded in tokenizer.encode_batch(scenes.sentences)]
    chosen = JointOptions(**{"steps": 6, "real": 4, "scenes": 4, "captions": 2, "warmup": 2} | options)
    return JointTrainer(CONFIG, PICTURE, chosen, real, scenes, sentences, 0, teacher or Colors())


STAGES = {"stage1", "stage2", "stage3", "stage4"}
DISTILLATION = STAGES | {"logits"}


def test_joint_loss_has_all_terms_and_decreases(data) -> None:
    trainer = make(data, steps=6, learning_rate=3e-3, warmup=1)
    parts = [trainer.run_step() for _ in range(6)]
    assert set(parts[0]) == DISTILLATION | {"captions", "sentences", "attributes"}
    assert sum(parts[-1].values()) < sum(parts[0].values())


def test_disabled_loss_terms_are_absent(data) -> None:
    assert set(make(data, sentences=0.0, captions=0).run_step()) == DISTILLATION | {"attributes"}
    assert set(make(data, distill_weight=0.0).run_step()) == {"captions", "sentences", "attributes"}
    assert set(make(data, real=0, captions=0, sentences=0.0).run_step()) == DISTILLATION | {"attributes"}


@pytest.mark.parametrize("train_decoder", [True, False])
def test_decoder_trains_only_when_enabled(data, train_decoder: bool) -> None:
    trainer = make(data, distill_weight=0.0, train_decoder=train_decoder)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    for _ in range(2):
        trainer.run_step()
    changed = {
        name.split(".")[0] for name, now in trainer.model.named_parameters() if not torch.equal(now, before[name])
    }
    assert changed == {"vision", "mapping"} | ({"gpt"} if train_decoder else set())


def test_encoder_stages_learn_teacher_features(data, monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise the falling weight of the inner stages would look like learning.
    monkeypatch.setattr(joint, "INNER", 1.0)
    trainer = make(
        data, steps=24, scenes=2, captions=0, sentences=0.0, learning_rate=1e-2, mixup_prob=0.5, teacher_forcing=0.5
    )
    parts = [trainer.run_step() for _ in range(24)]
    for name in STAGES:
        assert np.mean([part[name] for part in parts[-4:]]) < 0.8 * parts[0][name], name


def test_teacher_forcing_decays_to_zero(data) -> None:
    trainer = make(data, steps=10, teacher_forcing=0.5)
    planes = torch.rand(2, 3, 64, 64)
    maps = [torch.full((2, 3, side, side), 50.0) for side in (16, 8, 4, 2)]
    given: list[torch.Tensor] = []
    for stage in trainer.model.vision.stages:
        stage.register_forward_pre_hook(lambda _stage, inputs: given.append(inputs[0]))
    for step, teacher_forcing in ((0, True), (5, False)):
        given.clear()
        trainer.step = step
        trainer._run_stages(planes, maps)
        assert [bool((grid[:, :3] == 50).all()) for grid in given] == [
            False,
            teacher_forcing,
            teacher_forcing,
            teacher_forcing,
        ]
        # The encoder's own channels always come from the stage before.
        assert all(not (grid[:, 3:] == 50).any() for grid in given)


def test_teacher_and_encoder_get_same_images(data, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[np.ndarray] = []
    taken: list[torch.Tensor] = []

    class Watched(Colors):
        def features(self, images: np.ndarray):
            shown.append(images)
            return super().features(images)

    trainer = make(data, Watched(), mixup_prob=1.0)
    monkeypatch.setattr(joint, "normalize", lambda planes, _picture: taken.append(planes) or planes)
    trainer.run_step()
    assert np.abs(shown[-1] / 255 - taken[-1].permute(0, 2, 3, 1).numpy()).max() < 0.002


def test_teacher_with_other_depth_is_refused(data) -> None:
    class Flat(Colors):
        def features(self, images: np.ndarray):
            features = super().features(images)
            return type(features)(features.maps[:2], features.logits)

    with pytest.raises(InputError, match="the teacher has 2 maps, but the encoder has 4 stages"):
        make(data, Flat())


def test_random_crops_respect_bounds_and_area() -> None:
    left, top, right, bottom = random_boxes(500, 0.3).T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 1 + 1e-6 and bottom.max() <= 1 + 1e-6
    areas = (right - left) * (bottom - top)
    assert 0.25 < areas.min() < 0.4 and areas.max() > 0.9


def test_resume_is_exact(data, tmp_path: Path) -> None:
    whole = make(data, orthogonal=True)
    curve = [sum(whole.run_step().values()) for _ in range(4)]
    first = make(data, orthogonal=True)
    again = [sum(first.run_step().values()) for _ in range(2)]
    first.save(tmp_path / "state.pt")
    second = make(data, orthogonal=True)
    second.restore(tmp_path / "state.pt")
    again += [sum(second.run_step().values()) for _ in range(2)]
    assert again == curve


def test_exported_ema_matches_training_model(data, tmp_path: Path) -> None:
    trainer = make(data, real=0)
    trainer.run_step()
    export_native(tmp_path, trainer.ema, CONFIG, PICTURE, data[2])
    captioner = load_captioner(str(tmp_path), device="cpu")
    pixels = synthetic.draw_pictures(1, seed=5).pixels[0]
    small = np.array(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BOX))
    mean, std = np.array(PICTURE.mean), np.array(PICTURE.std)
    planes = torch.from_numpy((small / 255 - mean) / std).float().permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = trainer.ema.vision(planes)
    # The shipped weights are halves, their norms folded.
    assert torch.allclose(captioner.encode(small[None]), expected, atol=2e-2)


def test_crop_and_flip_transform_pixels() -> None:
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[:, :4, 4:] = 255
    quarter = crop(image, torch.tensor([[0.5, 0.0, 1.0, 0.5]]), torch.tensor([False]), 4)
    assert quarter[0, :, 1:, :-1].min() == 1
    mirrored = crop(image, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([True]), 8)
    assert torch.equal(mirrored[0, :, :4, :4] > 0.5, torch.ones(3, 4, 4, dtype=torch.bool))
    assert mirrored[0, :, :, 5:].max() == 0


def test_synthetic_images_depend_on_seed_only() -> None:
    one, other = synthetic.draw_pictures(4, seed=7), synthetic.draw_pictures(4, seed=7)
    assert np.array_equal(one.pixels, other.pixels)
    assert one.sentences == other.sentences
    values = synthetic.values()
    color = synthetic.ATTRIBUTES.index("color")
    for sentence, attributes in zip(one.sentences, one.attributes, strict=True):
        assert str(values[color][attributes[color]]) in sentence


def test_ranking_prefers_scenes_then_cider() -> None:
    poor, good = {"scenes_exact": 0.9, "dev_cider": 0.5}, {"scenes_exact": 0.96, "dev_cider": 0.1}
    better = {"scenes_exact": 0.95, "dev_cider": 0.2}
    assert rank(poor) < rank(good) < rank(better)
