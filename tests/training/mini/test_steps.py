"""What the stages of both recipes share."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streamcap.training.mini.stages.stage import LOWEST_RATE, StageOptions, StageTrainer
from streamcap.training.mini.steps import Stage, run_stages, scale_stages


def test_scaled_stages_scale_their_schedule() -> None:
    (scaled,) = scale_stages([Stage("critic", StageOptions(steps=40, schedule=80))], 0.5)
    assert (scaled.options.steps, scaled.options.schedule) == (20, 40)


@pytest.mark.parametrize(("schedule", "rate"), [(0, LOWEST_RATE), (80, 0.51)])
def test_learning_rate_follows_the_schedule(schedule: int, rate: float) -> None:
    options = StageOptions(steps=40, learning_rate=1.0, warmup=0, schedule=schedule)
    stage: Any = SimpleNamespace(options=options, step=40)
    assert StageTrainer.learning_rate(stage) == pytest.approx(rate, abs=0.02)


def test_stages_start_from_what_they_come_after(tmp_path: Path) -> None:
    stages = [Stage("a", None), Stage("b", None), Stage("c", None, after=("a", "b")), Stage("d", None)]
    ran: dict[str, list[str]] = {}

    def run(stage: Stage, previous: list[Path]) -> None:
        ran[stage.name] = [path.stem for path in previous]
        (tmp_path / f"{stage.name}.pt").touch()

    run_stages(stages, {"a", "b", "c"}, tmp_path, lambda: False, run)
    assert ran == {"a": [], "b": ["a"], "c": ["a", "b"]}
    ran.clear()
    run_stages(stages, {"a", "b", "c", "d"}, tmp_path, lambda: False, run)
    assert ran == {"d": ["c"]}, "the others are done"


def test_stopped_stage_is_not_done(tmp_path: Path) -> None:
    run_stages([Stage("a", None)], {"a"}, tmp_path, lambda: True, lambda stage, previous: None)
    assert not (tmp_path / "a.done").exists()
