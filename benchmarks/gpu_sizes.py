"""What `benchmarks.gpu` measures, and for how long at most; without torch, for the process that starts the parts."""

from __future__ import annotations

from dataclasses import dataclass

LIMITS = {
    "same tokens": 60.0,
    "fused": 120.0,
    "one frame": 60.0,
    "drafts": 60.0,
    "bandwidth": 40.0,
    "arithmetic": 40.0,
    "decode": 120.0,
    "engine": 60.0,
    "continuous": 70.0,
    "video": 60.0,
    "encode": 60.0,
}
"""The parts, the most important first, each with its limit in seconds."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is measured, and how often. `QUICK` tries every part on a CPU in seconds, with small models."""

    frames: tuple[int, ...] = (1, 4, 16, 64, 256)
    rounds: int = 7
    large: int = 2**28
    """int64 numbers in the bandwidth buffer. The matrices of `arithmetic` have a side of half its square root."""
    streams: int = 1000
    stream_seconds: float = 10.0
    batching_streams: int = 16
    batching_seconds: float = 8.0
    loads: tuple[float, ...] = (0.3, 0.5, 0.7)
    video_frames: int = 300
    video_size: tuple[int, int] = (1280, 720)
    small_models: bool = False
    time_factor: float = 1.0
    """Of all time limits: a CPU may be busy with other programs."""


QUICK = Sizes(
    frames=(1, 2), rounds=1, large=2**10, streams=8, stream_seconds=0.5, batching_streams=2, batching_seconds=0.05,
    loads=(0.5,), video_frames=20, video_size=(320, 240), small_models=True,
    time_factor=10.0,
)  # fmt: skip
