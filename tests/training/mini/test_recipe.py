"""The recipe of `recipe` on a model of a few thousand weights: its stages in order, stopped and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from streamcap.captioner import load_captioner
from streamcap.errors import InputError
from streamcap.training.curves import read_curves
from streamcap.training.mini import recipe, steps
from streamcap.training.mini.recipe import Plan, Stage, plan, train
from streamcap.training.mini.stages.caption import CaptionStageOptions
from streamcap.training.mini.stages.joint import JointOptions
from streamcap.training.mini.stages.scst import ScstOptions
from tests.training.fakes import CONFIG, PICTURE, Colors, make_data

pytestmark = pytest.mark.slow

STAGES = (
    Stage("sight", JointOptions(steps=2, real=2, scenes=2, captions=0, sentences=0.0, warmup=1)),
    Stage("words", CaptionStageOptions(steps=4, real=2, scenes=2, warmup=1, dropout=0.1), evaluate_every=2),
    Stage("critic", ScstOptions(steps=2, real=2, scenes=2, warmup=1, longest=6), evaluate_every=2),
    Stage("halfway", CaptionStageOptions(steps=0, real=2, scenes=2), evaluate_every=1, after=("words", "critic")),
)


@pytest.fixture(scope="module")
def data():
    return make_data()


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "CONFIG", CONFIG)
    monkeypatch.setattr(recipe, "PICTURE", PICTURE)
    monkeypatch.setattr(steps, "CURVE_STEPS", 2)


def chosen(*names: str) -> Plan:
    return Plan(STAGES, frozenset(names or [stage.name for stage in STAGES]), views_kept=2, open_teacher=Colors)


def after(calls: int) -> Callable[[], bool]:
    """A user who asks for the end before the question was put `calls` times."""
    asked = iter(range(1_000_000))
    return lambda: next(asked) >= calls


def weights(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["mean"]
    return state


def test_resume_in_any_stage_is_exact(data, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for run in (whole, parts):
        run.mkdir()
    train(data, whole, chosen(), lambda: False)
    calls = 0
    while not (parts / "halfway.done").is_file():
        calls += 1
        assert calls < 40
        train(data, parts, chosen(), after(3))
    assert calls > 3
    for stage in STAGES:
        assert read_curves(parts / f"{stage.name}.csv") == read_curves(whole / f"{stage.name}.csv")
        one, other = weights(parts / f"{stage.name}.pt"), weights(whole / f"{stage.name}.pt")
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert (whole / f"{stage.name}.png").stat().st_size > 0
    row = read_curves(whole / "critic.csv")[-1]
    assert row["dev_beam"] == "3" and row["dev_bleu4"] and row["exact"]
    assert any(row["reward"] for row in read_curves(whole / "critic.csv"))


def test_best_checkpoint_loads_and_captions(data, tmp_path: Path) -> None:
    train(data, tmp_path, chosen("sight"), lambda: False)
    # A stage without GPT-2 is not evaluated.
    assert not (tmp_path / "best").exists()
    train(data, tmp_path, chosen("words"), lambda: False)
    scores = json.loads((tmp_path / "best" / "scores.json").read_text())
    assert scores["stage"] == "words" and scores["dev_beam"] == 3
    captioner = load_captioner(str(tmp_path / "best"), device="cpu")
    assert len(captioner.caption(list(data.dev_pixels))) == 4


def test_selected_stages_start_from_last_available(data, tmp_path: Path) -> None:
    train(data, tmp_path, chosen("sight"), lambda: False)
    train(data, tmp_path, chosen("critic"), lambda: False)
    assert not (tmp_path / "words.pt").exists()
    before, now = weights(tmp_path / "sight.pt"), weights(tmp_path / "critic.pt")
    vision = [name for name in now if name.startswith("vision.")]
    assert vision and all(torch.equal(before[name], now[name]) for name in vision)


def test_caption_stage_needs_an_encoder(data, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="words needs the encoder"):
        train(data, tmp_path, chosen("words"), lambda: False)
    assert not list(tmp_path.iterdir())


def test_invalid_stages_or_scale() -> None:
    assert plan("sight", 0.5, 4).stages[0].options.steps == round(recipe.STAGES[0].options.steps / 2)
    with pytest.raises(InputError, match="--stages 'site'"):
        plan("site", 1.0, 4)
    with pytest.raises(InputError, match="--scale"):
        plan(None, 0.0, 4)


def test_recipe_settings_build_its_stages(data, monkeypatch: pytest.MonkeyPatch) -> None:
    for stage in recipe.STAGES:
        assert recipe._trainer(stage, data, lambda: None).options == stage.options


def test_invalid_folder_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps.signal, "signal", lambda *_: None)
    monkeypatch.setattr(steps.torch, "set_flush_denormal", lambda _: None)
    assert recipe.main([str(tmp_path / "nowhere"), str(tmp_path / "run")]) == 2
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        f"{tmp_path / 'nowhere' / 'images'}: no such folder or tar file of images"
    ]
