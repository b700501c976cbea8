"""CPU time of a camera, by the time between its keyframes and between captions, beside libav's own.

    python -m benchmarks.ingest [--json benchmarks/results/ingest.json]

720p30 H.264, drawn scenes, 3 Mbit/s, read from a file as fast as possible by one thread. Measured is that thread's CPU
time for each second of video, after the keyframes are known: reading, decoding, choosing and converting frames for
`mini`. Beside it, in the same run: libav decoding every frame, and reading alone.
Goal: keyframes and captions every second, at most 1/6 of decoding every frame.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from rich.console import Console
from rich.table import Table

from benchmarks.results import RESULTS, write_result
from streamcap.captioner.registry import mini_directory
from streamcap.image_spec import ImageSpec
from streamcap.media.convert import Converter
from streamcap.media.demand import FrameDemand
from streamcap.media.ring import FrameRing
from streamcap.media.sources import SourceEnded, SourceOptions, open_source
from streamcap.media.timing.schedule import Schedule
from testbed.rtsp.camera import Clip

RATE = 30
GOPS = (0.5, 1.0, 2.0, 4.0)
EVERY = (0.5, 1.0, 2.0)
GOAL = 1 / 6
# Keyframes until their interval is known, and those that are measured.
KNOWN_AFTER, MEASURED = 3, 3
MIN_SECONDS = 6.0
DRAWN = Clip(seed=1, scenes=4, seconds=2.0, rate=RATE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS / "ingest.json")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    images = [DRAWN._frame(number, round(DRAWN.seconds * RATE)) for number in range(DRAWN.count)]
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for gop in GOPS:
            path = Path(directory) / f"{gop:g}.mp4"
            encode(path, images, gop)
            rows += measure(str(path), gop, arguments.rounds)
    show(rows)
    # Imported late, as it imports torch.
    import torch

    from streamcap.bench.machine import describe_machine

    result = {"goal": round(GOAL, 3), "rows": rows, "machine": describe_machine(torch.device("cpu"))}
    write_result(arguments.json, result)


def encode(path: Path, images: list[av.VideoFrame], gop: float) -> None:
    seconds = KNOWN_AFTER * gop + max(MIN_SECONDS, MEASURED * gop)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = DRAWN.width, DRAWN.height, "yuv420p", 3_000_000
        keyint = str(round(gop * RATE))
        stream.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "g": keyint,
            "keyint_min": keyint,
            "sc_threshold": "0",
        }
        for number in range(round(seconds * RATE)):
            image = images[number % len(images)]
            image.pts, image.time_base, image.pict_type = number, Fraction(1, RATE), av.video.frame.PictureType.NONE
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))


def measure(path: str, gop: float, rounds: int) -> list[dict[str, Any]]:
    """Of each contender the best round."""
    since = KNOWN_AFTER * gop
    best: dict[str, float] = {}
    for _ in range(rounds):
        passes = {"all": libav(path, since, decode=True), "read": libav(path, since, decode=False)}
        passes |= {f"every {every:g}": ours(path, since, every) for every in EVERY}
        for name, cost in passes.items():
            best[name] = min(best.get(name, cost), cost)
    return [
        {
            "gop": gop,
            "every": every,
            "ms_per_second": round(1000 * best[f"every {every:g}"], 2),
            "libav_all_ms_per_second": round(1000 * best["all"], 2),
            "libav_read_ms_per_second": round(1000 * best["read"], 2),
            "ratio": round(best[f"every {every:g}"] / best["all"], 3),
        }
        for every in EVERY
    ]


def libav(path: str, since: float, *, decode: bool) -> float:
    """CPU seconds for each second of video after `since`."""

    def times() -> Iterator[float]:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
            for packet in container.demux(stream):
                if decode:
                    packet.decode()
                if packet.pts is not None and packet.time_base is not None:
                    yield float(packet.pts * packet.time_base)

    return per_second(times(), since)


def ours(path: str, since: float, every: float) -> float:
    """CPU seconds for each second of video after `since`, with `--decode auto` and a caption every `every` seconds."""
    config = json.loads((mini_directory() / "config.json").read_text())
    convert, ring, schedule = Converter(ImageSpec.from_json(config["image"]), None), None, Schedule(every)
    ring = FrameRing(seconds=1.0, frames=1)

    def times() -> Iterator[float]:
        source = open_source(path, options=SourceOptions(realtime=False))
        source.demand = FrameDemand(every=every)
        source.open()
        try:
            for frame in source.frames():
                ring.push(frame)
                if schedule.due(frame):
                    convert(ring.window(1.0, 1))
                source.demand.wait = schedule.wait(frame)
                yield frame.time
        except SourceEnded:
            source.close()

    return per_second(times(), since)


def per_second(times: Iterator[float], since: float) -> float:
    began = first = last = 0.0
    for time_of_frame in times:
        if time_of_frame < since:
            began, first = time.thread_time(), time_of_frame
        last = time_of_frame
    return (time.thread_time() - began) / (last - first)


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("keyframe every", "caption every", "ms CPU a second", "libav, every frame", "libav, reading", "ratio")
    for row in rows:
        table.add_row(
            f"{row['gop']:g} s",
            f"{row['every']:g} s",
            f"{row['ms_per_second']:.1f}",
            f"{row['libav_all_ms_per_second']:.1f}",
            f"{row['libav_read_ms_per_second']:.2f}",
            f"{row['ratio']:.3f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
