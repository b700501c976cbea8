"""The scene at each time: the ground truth of a stream of synthetic scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamcap.media.scenes.scene import Scene, random_scene

# Even and odd scenes have different subjects, so that consecutive sentences differ.
_HALVES = (
    ("man", "dog", "horse", "car", "truck", "duck", "ball"),
    ("woman", "cat", "bird", "bus", "bicycle", "boat"),
)


@dataclass(frozen=True)
class SceneScript:
    """An endless sequence of scenes of `seconds_per_scene`, with random access by time."""

    seed: int = 0
    seconds_per_scene: float = 4.0

    def scene(self, index: int) -> Scene:
        """The scene number `index`, from 0."""
        rng = np.random.default_rng((self.seed, index))
        return random_scene(rng, _HALVES[index % 2])

    def index_at(self, time: float) -> int:
        """The number of the scene at `time`, in seconds from 0."""
        return max(0, int(time // self.seconds_per_scene))

    def scene_at(self, time: float) -> Scene:
        """The scene at `time`, in seconds from 0."""
        return self.scene(self.index_at(time))

    def sentence_at(self, time: float) -> str:
        """The true sentence at `time`, in seconds from 0."""
        return self.scene_at(time).sentence
