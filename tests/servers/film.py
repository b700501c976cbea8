"""A film of drawn scenes for a browser's camera, whose truth is known though nobody knows when it began."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av

from streamcap.media.scenes import SceneScript, draw

PHASE_STEP = 0.05


@dataclass(frozen=True)
class Film:
    """`scenes` drawn scenes of `seconds` each, over and over; an even number, so that no sentence follows itself."""

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
        """Seconds until it begins again."""
        return self.scenes * self.seconds

    def write(self, path: Path) -> Path:
        """As YUV4MPEG2, which Chromium plays as a camera in a loop."""
        with path.open("wb") as file:
            file.write(f"YUV4MPEG2 W{self.width} H{self.height} F{self.rate}:1 Ip A1:1 C420jpeg\n".encode())
            for number in range(round(self.cycle * self.rate)):
                time = number / self.rate
                pixels = draw(self.script.scene_at(time), time, self.width, self.height)
                planes = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p").to_ndarray()
                file.write(b"FRAME\n" + planes.tobytes())
        return path

    def right(self, captions: list[tuple[float, str]]) -> list[bool]:
        """Which of the captions (start, text) are true, at the one phase between the two clocks that fits best."""

        def at(offset: float) -> list[bool]:
            return [self.script.sentence_at((start + offset) % self.cycle) == text for start, text in captions]

        phases = (step * PHASE_STEP for step in range(round(self.cycle / PHASE_STEP)))
        return max((at(phase) for phase in phases), key=sum)
