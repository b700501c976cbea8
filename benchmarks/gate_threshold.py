"""Calibrates the change gate's threshold: the feature distance from which an image counts as changed.

    python -m benchmarks.gate_threshold [--model mini] [--video CLIP ...] [--json PATH]

Drawn scenes have ground truth: the distance of a scene's images from its first one is movement, the distance to the
next scene's first image is a change. A threshold should be above the first and never above the second. For real videos,
which have no ground truth, the table shows how many samples each threshold decodes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results import RESULTS, write_result
from streamcap import load_captioner
from streamcap.bench.machine import describe_machine
from streamcap.captioner import Captioner
from streamcap.engine.change_gate import DEFAULT_THRESHOLD
from streamcap.media.convert import Converter
from streamcap.media.scenes import SceneScript, draw

THRESHOLDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2)
SCENE_SECONDS = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--video", type=Path, action="append", default=[], help="a real clip, sampled once a second")
    parser.add_argument("--json", type=Path, default=RESULTS / "gate_threshold.json")
    arguments = parser.parse_args()
    captioner = load_captioner(arguments.model)
    moved, arrived = drawn_distances(captioner, arguments.scenes)
    clips = {path.name: _features(captioner, sampled(path)) for path in arguments.video}
    rows = [
        {
            "threshold": threshold,
            "movement_decoded": round(float((moved >= threshold).mean()), 4),
            "arrivals_hidden": round(float((arrived < threshold).mean()), 4),
        }
        | {name: round(decoded_share(features, threshold), 4) for name, features in clips.items()}
        for threshold in THRESHOLDS
    ]
    result = {
        "question": "change gate threshold",
        "model": arguments.model,
        "default_threshold": DEFAULT_THRESHOLD,
        "drawn": {"movements": len(moved), "arrivals": len(arrived), "nearest_arrival": round(float(arrived.min()), 5)},
        "rows": rows,
        "machine": describe_machine(torch.device("cpu")),
    }
    show(rows, list(clips))
    write_result(arguments.json, result)


def drawn_distances(captioner: Captioner, scenes: int) -> tuple[Any, Any]:
    """Distances within scenes, one sample a second against the scene's first, and across to the next scene's first."""
    script = SceneScript(seed=77, seconds_per_scene=SCENE_SECONDS)
    convert = Converter(captioner.image_spec)
    images = []
    for index in range(scenes):
        for second in (0.2, 1.2, 2.2, 3.2):
            pixels = draw(script.scene(index), second, 640, 360)
            images.append(convert.convert(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    features = _features(captioner, images).reshape(scenes, 4, -1)
    moved = 1 - np.einsum("stf,sf->st", features[:, 1:], features[:, 0])
    arrived = 1 - np.einsum("sf,sf->s", features[1:, 0], features[:-1, 3])
    return moved.ravel(), arrived


def decoded_share(features: Any, threshold: float) -> float:
    """The part of a clip's samples that is decoded when each is compared with the last decoded one."""
    decoded, reference = 1, features[0]
    for row in features[1:]:
        if 1 - float(reference @ row) >= threshold:
            decoded, reference = decoded + 1, row
    return decoded / len(features)


def sampled(path: Path, every: float = 1.0, max_frames: int | None = None) -> list[av.VideoFrame]:
    """One frame of a video every `every` seconds, from its start; at most `max_frames`."""
    frames: list[av.VideoFrame] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if len(frames) == max_frames:
                break
            if frame.time is not None and frame.time >= every * len(frames):
                frames.append(frame)
    return frames


def _features(captioner: Captioner, images: list[Any]) -> Any:
    convert = Converter(captioner.image_spec)
    pixels = [convert.convert(p) if isinstance(p, av.VideoFrame) else p for p in images]
    return np.concatenate(
        [
            captioner.features(captioner.encode(np.stack(pixels[start : start + 32])))
            for start in range(0, len(pixels), 32)
        ]
    )


def show(rows: list[dict[str, Any]], clips: list[str]) -> None:
    table = Table(title="change gate: what each threshold decodes and hides")
    for column in ("threshold", "movement decoded", "arrivals hidden", *clips):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            f"{row['threshold']:g}",
            f"{100 * row['movement_decoded']:.1f} %",
            f"{100 * row['arrivals_hidden']:.1f} %",
            *(f"{100 * row[name]:.0f} %" for name in clips),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
