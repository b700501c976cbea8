"""The stages on stored features: what is kept, what they learn, and that they go on exactly where they stopped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from streamcap.errors import InputError, StreamcapError
from streamcap.training.mini.features import StoppedError, store_features
from streamcap.training.mini.stages.caption import CaptionStageOptions, CaptionStageTrainer
from streamcap.training.mini.stages.scst import ScstOptions, ScstTrainer, advantages
from streamcap.training.mini.stages.stage import REWARD, midpoint, read_state
from tests.training.fakes import CONFIG, PICTURE, make_data

pytestmark = pytest.mark.slow

WORDING = {"steps": 6, "real": 4, "scenes": 4, "captions": 2, "warmup": 2, "dropout": 0.1}
KINDS = ("text", "critic")


@pytest.fixture(scope="module")
def data():
    return make_data()


def make(data, kind: str, folder: Path, **options) -> CaptionStageTrainer:
    sentences = data.sentences()
    given = WORDING | options
    if kind == "critic":
        trainer: CaptionStageTrainer = ScstTrainer(
            CONFIG, PICTURE, ScstOptions(**given, longest=8), data.train.tokens, sentences, 0, data.tokenizer
        )
    else:
        trainer = CaptionStageTrainer(
            CONFIG, PICTURE, CaptionStageOptions(**given), data.train.tokens, sentences, stop=0
        )
    return learn(trainer, data, folder)


def learn(trainer: CaptionStageTrainer, data, folder: Path) -> CaptionStageTrainer:
    trainer.learn_from(store_features(folder, trainer.vision, PICTURE, data.train.pixels, data.scenes.pixels, 2))
    return trainer


def test_stage_starts_from_average_of_two(data, tmp_path: Path) -> None:
    states = []
    for kind, steps in zip(KINDS, (1, 2), strict=True):
        trainer = make(data, kind, tmp_path)
        for _ in range(steps):
            trainer.run_step()
        trainer.save(tmp_path / f"{kind}.pt")
        states.append(read_state(tmp_path / f"{kind}.pt"))
    between = make(data, "text", tmp_path)
    between.start_from(midpoint(states))
    for name, weight in between.ema.state_dict().items():
        one, other = (state["mean"][name] for state in states)
        assert torch.allclose(weight.double(), (one.double() + other.double()) / 2)
    assert midpoint(states[:1]) is states[0]


@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_exact(kind: str, data, tmp_path: Path) -> None:
    whole = make(data, kind, tmp_path)
    curve = [whole.run_step() for _ in range(4)]
    first = make(data, kind, tmp_path)
    again = [first.run_step() for _ in range(2)]
    first.save(tmp_path / "state.pt")
    # Features that have to be made anew must not change what is drawn.
    (tmp_path / "features.json").unlink()
    second = make(data, kind, tmp_path)
    second.restore(tmp_path / "state.pt")
    learn(second, data, tmp_path)
    again += [second.run_step() for _ in range(2)]
    assert again == curve
    for one, other in zip(whole.ema.parameters(), second.ema.parameters(), strict=True):
        assert torch.equal(one, other)


def test_word_dropout_changes_caption_loss(data, tmp_path: Path) -> None:
    intact, misread = (
        make(data, "text", tmp_path, scenes=0, dropout=0.0, noise=0.0, word_dropout=share) for share in (0.0, 1.0)
    )
    rows = torch.arange(4).numpy()
    grid = misread._stored().random_real_views(rows)
    misread.model.load_state_dict(intact.model.state_dict())
    captions = [[caption] for caption in (several[0] for several in data.train.tokens[:4])]
    with torch.no_grad():
        plain = intact._caption_loss(grid, captions)
        assert torch.equal(plain, misread._caption_loss(grid, captions, word_dropout=0.0))
        first, second = (misread._caption_loss(grid, captions, word_dropout=1.0) for _ in range(2))
    assert len({plain.item(), first.item(), second.item()}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_encoder_is_frozen(kind: str, data, tmp_path: Path) -> None:
    trainer = make(data, kind, tmp_path)
    before = {name: tensor.clone() for name, tensor in trainer.ema.state_dict().items()}
    trainer.run_step()
    for model in (trainer.model, trainer.ema):
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        assert {name.split(".")[0] for name in changed} == {"mapping", "gpt"}


def test_caption_loss_falls_then_reward_rises(data, tmp_path: Path) -> None:
    pace = {"steps": 40, "learning_rate": 3e-3, "dropout": 0.0, "real": 8, "scenes": 0}
    text = make(data, "text", tmp_path, **pace | {"steps": 20})
    losses = [text.run_step()["captions"] for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]
    text.save(tmp_path / "text.pt")
    critic = make(data, "critic", tmp_path, **pace | {"learning_rate": 1e-3})
    critic.start_from(torch.load(tmp_path / "text.pt", weights_only=True))
    rewards = [critic.run_step()[REWARD] for _ in range(40)]
    assert np.mean(rewards[-10:]) > np.mean(rewards[:10]) + 0.15


def test_advantage_baseline_is_mean_of_other_samples() -> None:
    assert advantages(torch.tensor([[1.0, 2.0, 6.0]])).tolist() == [[-3.0, -1.5, 4.5]]


def test_reward_gradient_equals_enumeration(data, tmp_path: Path) -> None:
    """Against the sum over all captions, each scored alone: a caption that was cut off has no stop token to learn."""
    trainer = make(data, "critic", tmp_path, dropout=0.0, likelihood=0.0, scenes=0)
    assert isinstance(trainer, ScstTrainer)
    grid = torch.randn(2, 4, 16)
    drawn = trainer._sample(grid)
    better = torch.randn(2, 5)
    parts = trainer._real_losses(grid, drawn, better, [[[5]], [[6, 7]]])
    total, tokens = 0.0, 0
    prefix = trainer.model.mapping(grid)
    for row in range(2):
        for number, one in enumerate(drawn[row]):
            words = trainer.model.gpt.transformer.wte(torch.tensor([one.tokens], dtype=torch.long))
            logits = trainer.model.gpt(inputs_embeds=torch.cat((prefix[row : row + 1], words), 1)).logits[0, 1:]
            wanted = [*one.tokens, 0] if one.stopped else one.tokens
            logprob = logits.log_softmax(-1)[range(len(wanted)), wanted].sum().item()
            total -= better[row, number].item() * logprob
            tokens += len(wanted)
    assert set(parts) == {"drawn"}
    assert parts["drawn"].item() == pytest.approx(total / tokens, abs=1e-4)


def test_features_equal_encoder_and_are_computed_once(data, tmp_path: Path) -> None:
    trainer = make(data, "text", tmp_path)
    stored = store_features(tmp_path, trainer.vision, PICTURE, data.train.pixels, data.scenes.pixels, 2)
    assert stored.real.shape == (8, 2, 4, 16)
    assert stored.drawn.shape == (8, 2, 4, 16)
    written = (tmp_path / "features-real.npy").stat().st_mtime_ns
    # The first view is the whole image as it is: what the encoder makes of it, squashed to its size.
    planes = torch.from_numpy(data.train.pixels[:2]).permute(0, 3, 1, 2) / 255
    small = torch.nn.functional.interpolate(planes, (64, 64), mode="bilinear", align_corners=False)
    mean, std = torch.tensor(PICTURE.mean).view(3, 1, 1), torch.tensor(PICTURE.std).view(3, 1, 1)
    with torch.no_grad():
        expected = trainer.vision((small - mean) / std)
    assert torch.allclose(torch.from_numpy(stored.real[:2, 0].astype(np.float32)), expected, atol=5e-3)
    store_features(tmp_path, trainer.vision, PICTURE, data.train.pixels, data.scenes.pixels, 2)
    assert (tmp_path / "features-real.npy").stat().st_mtime_ns == written
    with torch.no_grad():
        next(trainer.vision.parameters()).mul_(1.5)
    changed = store_features(tmp_path, trainer.vision, PICTURE, data.train.pixels, data.scenes.pixels, 2)
    assert not np.array_equal(changed.real, stored.real)


def test_incomplete_features_are_recomputed(data, tmp_path: Path) -> None:
    trainer = make(data, "text", tmp_path)
    with pytest.raises(StoppedError):
        store_features(
            tmp_path, trainer.vision, PICTURE, data.train.pixels, data.scenes.pixels, 3, stopped=lambda: True
        )
    assert not (tmp_path / "features.json").exists()
    assert not list(tmp_path.glob("*.part"))


def test_changed_settings_refuse_resume_unless_allowed(data, tmp_path: Path) -> None:
    path = tmp_path / "text.pt"
    make(data, "text", tmp_path).save(path)
    kept = path.read_bytes()
    with pytest.raises(InputError, match=r"text\.pt: was started with other settings: steps is 6 there and 7 here"):
        make(data, "text", tmp_path, steps=7).restore(path)
    make(data, "text", tmp_path, steps=7).restore(path, other_settings=True)
    assert path.read_bytes() == kept


def test_state_without_settings_is_read(data, tmp_path: Path) -> None:
    trainer = make(data, "text", tmp_path)
    trainer.save(tmp_path / "new.pt")
    state = torch.load(tmp_path / "new.pt", weights_only=True)
    del state["settings"]
    torch.save(state, tmp_path / "old.pt")
    assert make(data, "text", tmp_path, steps=9).restore(tmp_path / "old.pt")["step"] == 0


def test_nan_loss_stops_stage(data, tmp_path: Path) -> None:
    trainer = make(data, "text", tmp_path)
    with torch.no_grad():
        next(trainer.model.mapping.parameters()).fill_(float("nan"))
    with pytest.raises(StreamcapError, match="the loss is nan at step 1"):
        trainer.run_step()


def test_damaged_state_is_one_line(data, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(InputError, match=r"text\.pt: cannot be read") as raised:
        make(data, "text", tmp_path).restore(tmp_path / "text.pt")
    assert "\n" not in str(raised.value)
    torch.save({"a": 1}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="not a state of this kind of training"):
        make(data, "text", tmp_path).restore(tmp_path / "other.pt")


def test_feature_report_names_its_encoder(data, tmp_path: Path) -> None:
    make(data, "text", tmp_path)
    manifest = json.loads((tmp_path / "features.json").read_text())
    assert len(manifest["encoder"]) == 64
    assert (manifest["views"], manifest["real"], manifest["drawn"]) == (2, 8, 8)
