"""Shared by both recipes of `mini`: running stages and their steps, and the command line."""

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
"""Steps per row of the curves; the row holds their mean loss."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a recipe."""

    name: str
    options: Any
    """The options of its trainer, with `steps`."""
    after: tuple[str, ...] = ()
    """Start from the mean of the weights of these stages; empty: from the newest stage before it."""


StageT = TypeVar("StageT", bound=Stage)


def run_stages(
    stages: Iterable[StageT],
    chosen: Collection[str],
    run: Path,
    stopped: Callable[[], bool],
    run_stage: Callable[[StageT, list[Path]], None],
) -> None:
    """Run the chosen stages that are not done yet, in order.

    RUN/NAME.pt is the state of a stage; RUN/NAME.done exists once it is complete. run_stage: called with the stage and
    the files of the states whose mean it starts from; an empty list for the first stage.
    """
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
    """The stages with their steps multiplied by `scale`. Raises InputError."""
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
    """Resume from the file `state`; without it, start from the mean of the states `previous`, if there are any.

    Returns the losses of the steps since the last row of the curves; None for a stage that starts. Raises InputError.
    """
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
    """Run the remaining steps of stage `name`.

    RUN/NAME.pt is saved every `save_every` steps, after each `evaluate` and at the end. RUN/NAME.csv and .png have the
    curves. recent: the losses of the steps since the last row of the curves.
    """
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
    """The mean of each loss over the steps that have it."""
    keys = sorted({key for parts in recent for key in parts})
    return {key: float(np.mean([parts[key] for parts in recent if key in parts])) for key in keys}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every recipe."""
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's default")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for the number of steps of every stage")
    parser.add_argument("--stages", help="run only these stages, comma-separated")
    parser.add_argument(
        "--other-settings", action="store_true", help="resume a stage even if it was started with other settings"
    )


def scaled(steps: int, scale: float) -> int:
    """`steps` multiplied by `scale`, at least 1; 0 stays 0. Raises InputError."""
    if scale <= 0:
        raise InputError(f"--scale {scale:g}: must be above 0")
    return max(1, round(steps * scale)) if steps else 0


def chosen_stages(names: str | None, known: list[str]) -> frozenset[str]:
    """The stages that `--stages` names; None: all. Raises InputError."""
    chosen = known if names is None else [name.strip() for name in names.split(",")]
    if (stray := next((name for name in chosen if name not in known), None)) is not None:
        raise InputError(f"--stages {stray!r}: must be one of {', '.join(known)}")
    return frozenset(chosen)


def run_command(
    parser: argparse.ArgumentParser, arguments: list[str] | None, body: Callable[[argparse.Namespace], None]
) -> int:
    """Parse `arguments` and run `body` with them.

    Returns the exit status: 2 for wrong use, 1 for other errors, each with one line on stderr.
    """
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        body(given)
    except StreamcapError as error:
        log.error("%s", error)
        return 2 if isinstance(error, InputError) else 1
    return 0


def run_recipe(
    parser: argparse.ArgumentParser,
    arguments: list[str] | None,
    body: Callable[[argparse.Namespace, Callable[[], bool]], None],
) -> int:
    """As `run_command`, with the options of `add_options`. body: also takes a function that returns True after SIGTERM
    or SIGINT."""

    def prepared(given: argparse.Namespace) -> None:
        torch.set_flush_denormal(True)
        if given.threads:
            torch.set_num_threads(given.threads)
        signals: list[int] = []
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, lambda number, _frame: signals.append(number))
        body(given, lambda: bool(signals))

    return run_command(parser, arguments, prepared)
