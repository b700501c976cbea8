"""Benefit and cost of a second sample that confirms a new caption when the image barely changed.

    python -m benchmarks.gate_stability [--video CLIP ...] [--json benchmarks/results/gate_stability.json]

The engine's change gate runs over images that `mini` (or `--model`) has captioned once, all of them:

- drawn scenes that last a minute while their content moves (legs walk, a ball rolls): captions (expected: one per
  refresh) and decoded samples;
- drawn scenes with one change at a known time (color, number, action, or another subject in the same position and
  light): how many changes that the model recognizes are hidden, and the delay of the others;
- real clips: captions and decoded samples. They have no ground truth.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.gate_threshold import sampled
from benchmarks.results import RESULTS, write_result
from streamcap import load_captioner
from streamcap.bench.machine import describe_machine
from streamcap.captioner import Captioner
from streamcap.engine.change_gate import DEFAULT_THRESHOLD, ChangeGate, ChangeGateOptions, Features, Verdict, content
from streamcap.media.convert import Converter
from streamcap.media.frame import Sample
from streamcap.media.scenes import SceneScript, draw
from streamcap.media.scenes.scene import KINDS, Scene, every_scene

SEED = 77
STEP = 0.5
"""Seconds between the images looked at; samples are taken of every one or every other."""
PERIODS = (0.5, 1.0)
HOLD_SECONDS = 60.0
REFRESH = 30.0
BEFORE = 8
"""Images before a small change, and after it."""
POLICIES = {"at once": ChangeGateOptions(DEFAULT_THRESHOLD, REFRESH, confirm_timeout=0.0)} | {
    f"near {confirm_below * DEFAULT_THRESHOLD:g}": ChangeGateOptions(
        DEFAULT_THRESHOLD, REFRESH, confirm_below=confirm_below
    )
    for confirm_below in (5.0, 10.0, 20.0)
}


@dataclass(frozen=True)
class CaptionedImages:
    """Images `STEP` seconds apart, with the model's features (N, D) and texts."""

    features: Features
    texts: list[str]


@dataclass(frozen=True)
class Run:
    """A gate's run over one row of images."""

    captions: list[tuple[float, str]]
    """When each came, and its text."""
    samples: int
    decoded: int
    confirmed: int
    """Captions that a second sample confirmed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--scenes", type=int, default=24, help="scenes that stay")
    parser.add_argument("--changes", type=int, default=100, help="scenes of which one thing changes")
    parser.add_argument("--video", type=Path, action="append", default=[], help="a real clip")
    parser.add_argument("--json", type=Path, default=RESULTS / "gate_stability.json")
    arguments = parser.parse_args()
    captioner = load_captioner(arguments.model)
    held = [
        caption_all(captioner, drawn(scene, 0.0, round(HOLD_SECONDS / STEP) + 1)) for scene in scenes(arguments.scenes)
    ]
    changed = [caption_all(captioner, change) for change in changes(arguments.changes)]
    clips = {path.name: caption_all(captioner, sampled(path, STEP)) for path in arguments.video}
    rows = [
        {"every_s": every, "policy": name}
        | _held(held, every, options)
        | _changed(changed, every, options)
        | {"clips": {clip: _clip(run_gate(row, every, options)) for clip, row in clips.items()}}
        for every in PERIODS
        for name, options in POLICIES.items()
    ]
    result = {
        "question": "captions of a scene that moves, and changes hidden or delayed",
        "model": arguments.model,
        "threshold": DEFAULT_THRESHOLD,
        "refresh_s": REFRESH,
        "held": {"scenes": len(held), "seconds": HOLD_SECONDS},
        "nearest_change": round(min(_distance(row) for row in changed), 4),
        "rows": rows,
        "machine": describe_machine(torch.device("cpu")),
    }
    show(rows, list(clips))
    write_result(arguments.json, result)


def scenes(count: int) -> list[Scene]:
    script = SceneScript(seed=SEED)
    return [script.scene(index) for index in range(count)]


def drawn(scene: Scene, begin: float, count: int) -> list[av.VideoFrame]:
    return [
        av.VideoFrame.from_ndarray(draw(scene, begin + number * STEP, 640, 360), format="rgb24")
        for number in range(count)
    ]


def changes(count: int) -> list[list[av.VideoFrame]]:
    """Scenes of which one thing changes halfway: color, number, action, or the subject; place and look stay."""
    rng = np.random.default_rng(SEED)
    known = {(s.kind, s.color, s.count, s.action, s.place) for s in every_scene()}
    made = []
    for scene in scenes(count):
        others = [
            *(replace(scene, color=color) for color in KINDS[scene.kind].colors),
            *(replace(scene, count=number) for number in (1, 2, 3)),
            *(replace(scene, action=action) for action in KINDS[scene.kind].actions),
            *(
                replace(scene, kind=kind, color=grammar.colors[0], action=next(iter(grammar.actions)))
                for kind, grammar in KINDS.items()
            ),
        ]
        allowed = [
            o for o in others if o.sentence != scene.sentence and (o.kind, o.color, o.count, o.action, o.place) in known
        ]
        other = allowed[int(rng.integers(len(allowed)))]
        made.append(drawn(scene, 0.0, BEFORE) + drawn(other, BEFORE * STEP, BEFORE))
    return made


def caption_all(captioner: Captioner, images: Sequence[av.VideoFrame]) -> CaptionedImages:
    convert = Converter(captioner.image_spec)
    features, texts = [], []
    for start in range(0, len(images), 32):
        embeddings = captioner.encode(np.stack([convert.convert(one) for one in images[start : start + 32]]))
        features.append(captioner.features(embeddings))
        texts += [result.text for result in captioner.decode(embeddings)]
    return CaptionedImages(np.concatenate(features), texts)


def run_gate(row: CaptionedImages, every: float, options: ChangeGateOptions) -> Run:
    """The engine's gate over `row`, sampled every `every` seconds."""
    gate, captions, decoded, confirmed = ChangeGate(options), [], 0, 0
    numbers = range(0, len(row.texts), round(every / STEP))
    for number in numbers:
        at, features, text = number * STEP, row.features[number], row.texts[number]
        sample = Sample("scene", np.empty(0, np.uint8), 0, at, at, "arrival", at, at)
        distance = gate.distance(sample, features)
        if gate.is_unchanged(distance):
            gate.mark_unchanged(sample)
            continue
        decoded += 1
        judgement = gate.classify(sample, features, distance, text)
        if judgement.verdict is Verdict.CHANGED:
            gate.commit(sample, features, text, first=judgement.first)
            captions.append((at, text))
            confirmed += judgement.first is not None
    return Run(captions, len(numbers), decoded, confirmed)


def _held(held: list[CaptionedImages], every: float, options: ChangeGateOptions) -> dict[str, Any]:
    runs = [run_gate(row, every, options) for row in held]
    return {
        "held_captions": sum(len(run.captions) for run in runs),
        "held_expected": len(runs) * (int(HOLD_SECONDS // REFRESH) + 1),
        "held_decoded": round(sum(run.decoded for run in runs) / sum(run.samples for run in runs), 4),
    }


def _changed(changed: list[CaptionedImages], every: float, options: ChangeGateOptions) -> dict[str, Any]:
    """Of the changes that the model tells by itself: one sentence before, another after."""
    recognized, hidden, delays = 0, 0, []
    step = round(every / STEP)
    for row in changed:
        before = {content(text) for text in row.texts[:BEFORE:step]}
        after = {content(text) for text in row.texts[BEFORE::step]}
        if len(before) != 1 or len(after) != 1 or before == after:
            continue
        recognized += 1
        came = [at for at, _ in run_gate(row, every, options).captions if at >= BEFORE * STEP]
        hidden += not came
        delays += [came[0] - BEFORE * STEP] if came else []
    return {
        "changes_recognized": recognized,
        "changes_hidden": hidden,
        "changes_delayed": round(float(np.mean(np.array(delays) > 0)), 4),
        "longest_delay_s": max(delays),
    }


def _clip(run: Run) -> dict[str, Any]:
    return {"captions": len(run.captions), "confirmed": run.confirmed, "decoded": round(run.decoded / run.samples, 4)}


def _distance(row: CaptionedImages) -> float:
    """From the first image after the change to the nearest before it."""
    return 1.0 - float((row.features[:BEFORE] @ row.features[BEFORE]).max())


def show(rows: list[dict[str, Any]], clips: list[str]) -> None:
    table = Table(title="captions of what moves and of what changes")
    for column in (
        "every",
        "policy",
        "captions (expected)",
        "decoded",
        "hidden (recognized)",
        "delayed",
        "by at most",
        *clips,
    ):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{row['every_s']:g} s",
            row["policy"],
            f"{row['held_captions']} ({row['held_expected']})",
            f"{100 * row['held_decoded']:.0f} %",
            f"{row['changes_hidden']} ({row['changes_recognized']})",
            f"{100 * row['changes_delayed']:.0f} %",
            f"{row['longest_delay_s']:g} s",
            *(f"{clip['captions']}, {100 * clip['decoded']:.0f} %" for clip in row["clips"].values()),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
