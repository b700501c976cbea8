"""A film of synthetic scenes for a browser's camera, with ground truth although its start time is unknown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from streamcap.media.scenes import SceneScript, draw

STEP = 0.05
"""Seconds between the phases that are tried."""


@dataclass(frozen=True)
class Film:
    """`scenes` scenes of `seconds` each, in a loop; an even number, so that no sentence follows itself."""

    seed: int = 1
    scenes: int = 6
    seconds: float = 3.0
    width: int = 424
    height: int = 240
    rate: int = 10

    @property
    def script(self) -> SceneScript:
        return SceneScript(self.seed, self.seconds)

    @property
    def cycle(self) -> float:
        """Seconds of one repetition."""
        return self.scenes * self.seconds

    def write(self, path: Path) -> Path:
        """Write YUV4MPEG2, which Chromium plays as a camera in a loop."""
        with path.open("wb") as file:
            file.write(f"YUV4MPEG2 W{self.width} H{self.height} F{self.rate}:1 Ip A1:1 C420jpeg\n".encode())
            for number in range(round(self.cycle * self.rate)):
                time = number / self.rate
                pixels = draw(self.script.scene_at(time), time, self.width, self.height)
                planes = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p").to_ndarray()
                file.write(b"FRAME\n" + planes.tobytes())
        return path

    def right(self, captions: list[tuple[float, str]]) -> list[bool]:
        """Which of the captions (start, text), in any order, are true, on the course of the film that fits best.

        It may begin at any phase, and fall behind by one scene in all: on a busy machine Chromium plays a file late and
        never makes up for it.
        """
        order = sorted(range(len(captions)), key=lambda number: captions[number][0])
        count, behind = round(self.cycle / STEP), np.arange(round(self.seconds / STEP) + 1)
        truth = np.array([self.script.sentence_at(step * STEP) for step in range(count)])

        def hits(phase: int) -> np.ndarray:
            """`(captions in order of time, steps behind)`."""
            starts = np.array([round(captions[number][0] / STEP) for number in order])
            texts = np.array([captions[number][1] for number in order])
            return np.asarray(truth[(starts[:, None] + phase - behind) % count] == texts[:, None])

        def totals(hit: np.ndarray) -> list[np.ndarray]:
            """After each caption, how many are true at best, by the steps behind at it."""
            rows: list[np.ndarray] = []
            for row in hit:
                rows.append((np.maximum.accumulate(rows[-1]) if rows else 0) + row.astype(int))
            return rows

        best = max((hits(phase) for phase in range(count)), key=lambda hit: totals(hit)[-1].max())
        right, at = [False] * len(captions), len(behind) - 1
        for number, hit, row in reversed(list(zip(order, best, totals(best), strict=True))):
            at = int(np.argmax(row[: at + 1]))
            right[number] = bool(hit[at])
        return right
