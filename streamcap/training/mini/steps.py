"""What both recipes share: the steps of a stage, and the command line around all of them."""

from __future__ import annotations

import argparse
import logging
import signal
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from streamcap.errors import InputError, StreamcapError
from streamcap.training.curves import Curves, draw_curves
from streamcap.training.mini.stages.stage import REWARD, StageTrainer, midpoint, read_state

log = logging.getLogger(__name__)

CURVE_STEPS = 50
"""Steps whose mean loss makes one row of the curves."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a recipe."""

    name: str
    options: Any
    """The options of its trainer, with `steps`."""
    after: tuple[str, ...] = ()
    """Start from the mean of these stages' weights; none: from the last stage before it."""


StageT = TypeVar("StageT", bound=Stage)


def run_stages(
    stages: Iterable[StageT],
    chosen: Collection[str],
    run: Path,
    stopped: Callable[[], bool],
    run_stage: Callable[[StageT, list[Path]], None],
) -> None:
    """Run the chosen stages that are not done yet. run_stage: with the stage and the states whose mean it starts from,
    none for the first. What a stage has done is in RUN/NAME.pt, and that it is done in RUN/NAME.done."""
    previous: list[Path] = []
    for stage in stages:
        state, done = run / f"{stage.name}.pt", run / f"{stage.name}.done"
        if stage.name in chosen and not done.is_file():
            run_stage(stage, [run / f"{name}.pt" for name in stage.after] or previous)
            if stopped():
                return
            done.touch()
        if state.is_file():
            previous = [state]


def scale_stages(stages: Iterable[StageT], scale: float) -> tuple[StageT, ...]:
    """The stages with `scale` times as many steps. Raises InputError."""
    return tuple(
        replace(
            one,
            options=replace(
                one.options,
                steps=scaled(one.options.steps, scale),
                schedule=scaled(one.options.schedule, scale),
            ),
        )
        for one in stages
    )


def start_or_go_on(
    trainer: StageTrainer, state: Path, previous: list[Path], *, other_settings: bool
) -> list[dict[str, float]] | None:
    """Load `state`, else the mean of the states `previous`, if there are any. Returns the parts of the loss since the
    last row of the curves."""
    if state.is_file():
        recent: list[dict[str, float]] | None = trainer.restore(state, other_settings=other_settings).get("recent")
        return recent
    if previous:
        trainer.start_from(midpoint([read_state(path) for path in previous]))
    return None


def run_steps(
    trainer: StageTrainer,
    name: str,
    run: Path,
    stopped: Callable[[], bool],
    *,
    save_every: int,
    evaluate: Callable[[Curves], None] | None = None,
    evaluate_every: int = 0,
    recent: list[dict[str, float]] | None = None,
) -> None:
    """The steps of stage `name` that are left. RUN/NAME.pt is saved every `save_every` steps, after `evaluate` and at
    the end; RUN/NAME.csv and .png have the curves. recent: the parts of the loss since the last row of the curves."""
    state, steps = run / f"{name}.pt", trainer.options.steps
    recent = [] if recent is None else recent
    curves = Curves(run / f"{name}.csv", trainer.step)
    if not steps and evaluate is not None:
        evaluate(curves)
    began, first = time.monotonic(), trainer.step
    while trainer.step < steps and not stopped():
        recent.append(trainer.run_step())
        if trainer.step % CURVE_STEPS == 0:
            means = means_of(recent)
            loss = sum(value for key, value in means.items() if key != REWARD)
            more = {REWARD: means[REWARD]} if REWARD in means else {}
            curves.add(step=trainer.step, epoch=0, learning_rate=trainer.learning_rate(), loss=loss, **more)
            recent.clear()
            speed = (trainer.step - first) / (time.monotonic() - began)
            parts = ", ".join(f"{key} {value:.3f}" for key, value in means.items())
            log.info("%s %d/%d, %.2f steps/s: %s", name, trainer.step, steps, speed, parts)
        if evaluate is not None and evaluate_every and (trainer.step % evaluate_every == 0 or trainer.step == steps):
            evaluate(curves)
            trainer.save(state, recent=recent)
        elif trainer.step % save_every == 0:
            trainer.save(state, recent=recent)
    trainer.save(state, recent=recent)
    draw_curves(run / f"{name}.csv", run / f"{name}.png", f"mini, {name}")


def means_of(recent: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each part of the loss over the steps that had it."""
    keys = sorted({key for parts in recent for key in parts})
    return {key: float(np.mean([parts[key] for parts in recent if key in parts])) for key in keys}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every recipe has."""
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many steps in every stage")
    parser.add_argument("--stages", help="run these alone, comma-separated")
    parser.add_argument(
        "--other-settings", action="store_true", help="go on with a stage although it was started with other settings"
    )


def scaled(steps: int, scale: float) -> int:
    """`scale` times as many steps, at least one where there are any. Raises InputError."""
    if scale <= 0:
        raise InputError("--scale is above 0")
    return max(1, round(steps * scale)) if steps else 0


def chosen_stages(names: str | None, known: list[str]) -> frozenset[str]:
    """The stages that `--stages` names; None: all. Raises InputError."""
    chosen = known if names is None else [name.strip() for name in names.split(",")]
    if (stray := next((name for name in chosen if name not in known), None)) is not None:
        raise InputError(f"--stages {stray!r}: it is one of {', '.join(known)}")
    return frozenset(chosen)


def run_command(
    parser: argparse.ArgumentParser, arguments: list[str] | None, body: Callable[[Any, Callable[[], bool]], None]
) -> int:
    """Run `body` with what was given and a function that says whether to stop (after SIGTERM and SIGINT). Returns the
    exit status: 2 for wrong use, 1 for other errors, each with one line on stderr."""
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_flush_denormal(True)
    if given.threads:
        torch.set_num_threads(given.threads)
    asked: list[int] = []
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda number, _frame: asked.append(number))
    try:
        body(given, lambda: bool(asked))
    except StreamcapError as error:
        log.error("%s", error)
        return 2 if isinstance(error, InputError) else 1
    return 0
