"""Videos whose frames show their number, so that a test can identify them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from testbed.programs import require_program

BITS = 10


def numbered(number: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Ten upright bars, white for a one: uint8 RGB (height, width, 3)."""
    bars = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.array([bars[column * BITS // width] for column in range(width)], np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def read_number(pixels: npt.NDArray[np.uint8]) -> int:
    """The number in an image made by `numbered`, at any scale: uint8 RGB (H, W, 3)."""
    width = pixels.shape[1]
    middles = [pixels[:, (2 * bit + 1) * width // (2 * BITS)].mean() for bit in range(BITS)]
    return sum(1 << bit for bit, light in enumerate(middles) if light > 127)


def write_numbered(
    path: Path,
    stamps_ms: Sequence[int],
    *,
    size: tuple[int, int] = (80, 48),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    others: Sequence[str] = (),
) -> Path:
    """Frame k, numbered k, at `stamps_ms[k]`. `others`: further streams, before and after: "audio", "small video"."""
    with av.open(str(path), "w") as out:
        small = out.add_stream("mpeg4", rate=10) if "small video" in others else None
        if small is not None:
            small.width, small.height, small.pix_fmt = 16, 16, "yuv420p"
        stream = out.add_stream(codec, rate=25)
        sound = out.add_stream("aac", rate=8000, layout="mono") if "audio" in others else None
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.options = options or {}
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, stamp in enumerate(stamps_ms):
            video_frame = av.VideoFrame.from_ndarray(numbered(number, *size), format="rgb24").reformat(format=pix_fmt)
            video_frame.pts, video_frame.time_base = stamp, Fraction(1, 1000)
            out.mux(stream.encode(video_frame))
        out.mux(stream.encode(None))
        if small is not None:
            out.mux(small.encode(av.VideoFrame(16, 16, "yuv420p")))
            out.mux(small.encode(None))
        if sound is not None:
            block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            block.sample_rate, block.pts = 8000, 0
            out.mux(sound.encode(block))
            out.mux(sound.encode(None))
    return path


def ffmpeg(*arguments: str | Path) -> None:
    """Run ffmpeg; its errors fail the test."""
    program = require_program("ffmpeg")
    subprocess.run([program, "-v", "error", "-y", *map(str, arguments)], check=True)


def ffprobe_times(path: Path) -> list[float | None]:
    """Every frame's PTS in seconds, by ffprobe, in display order; its best guess or None if a file has none."""
    frames = _ffprobe(path, "-select_streams", "v:0", "-show_frames")["frames"]
    times = [frame.get("pts_time", frame.get("best_effort_timestamp_time")) for frame in frames]
    return [None if time is None else float(time) for time in times]


def ffprobe_cues(path: Path) -> list[tuple[float, float]]:
    """Start and duration of every cue of a subtitle file, by ffprobe, in seconds."""
    packets = _ffprobe(path, "-show_packets")["packets"]
    return [(float(packet["pts_time"]), float(packet["duration_time"])) for packet in packets]


def _ffprobe(path: Path, *arguments: str) -> dict[str, Any]:
    command = [require_program("ffprobe"), "-v", "error", "-of", "json", *arguments, str(path)]
    answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return answer
