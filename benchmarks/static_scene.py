"""Decodes that the change gate saves on a static scene, and its delay on a changing one.

    python -m benchmarks.static_scene [--minutes 10] [--refresh-interval 60] [--every 1] [--json PATH]

Four streams in one service. Two are cameras of a real RTSP server with a static scene: H.264 with encoder noise only,
and with sensor noise in every frame. The third is a drawn scene whose content moves. The fourth changes its scene every
3 s. Expected: for the first three, one caption per refresh, and no decode without movement; for the fourth, a caption
for every change, with the delay from the change to the caption. On a busy machine, newer samples replace waiting ones:
*processed* is the number of samples that were not replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from benchmarks.results import RESULTS, percentiles, write_result
from benchmarks.running_service import serving, streams
from streamcap.bench.machine import describe_machine
from streamcap.media.scenes import SceneScript
from testbed.rtsp.camera import Clip, RtspServer

SCENE_SECONDS = 3.0
SEED = 3
SENSOR_NOISE = 2.0
"""Standard deviation, in levels of 255: a camera indoors."""
RATE = 5
"""Frames a second of each: enough for a sample a second, and little work beside it."""
STAYING = ("still", "noisy", "moving")
CAMERAS = {
    name: Clip(seed=SEED, scenes=1, seconds=20.0, still=True, rate=RATE, noise=noise, bit_rate=500_000)
    for name, noise in (("still", 0.0), ("noisy", SENSOR_NOISE))
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--refresh-interval", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=1.0)
    parser.add_argument("--json", type=Path, default=RESULTS / "static_scene.json")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        cameras = {
            name: stack.enter_context(RtspServer(clip, paths=(name,))).url(name) for name, clip in CAMERAS.items()
        }
        result = asyncio.run(measure(cameras, arguments)) | {"machine": describe_machine(torch.device("cpu"))}
    show(result)
    write_result(arguments.json, result)


async def measure(cameras: dict[str, str], arguments: argparse.Namespace) -> dict[str, Any]:
    sources = [f"{name}={url}" for name, url in cameras.items()]
    sources += [
        f"{name}=scenes:?seed={SEED}&rate={RATE}&seconds={seconds:g}"
        for name, seconds in (("moving", 86400.0), ("changing", SCENE_SECONDS))
    ]
    options = ["--every", str(arguments.every), "--refresh-interval", str(arguments.refresh_interval)]
    finals: dict[str, list[dict[str, Any]]] = {name: [] for name in (*STAYING, "changing")}
    async with serving([*sources, *options]) as service, connect(service.feed + "?interim=0") as socket:
        reading = asyncio.create_task(_read(socket, finals))
        await asyncio.sleep(60 * arguments.minutes)
        views = await asyncio.to_thread(streams, service.base)
        reading.cancel()
    return {
        "question": "change gate on scenes that stay and on one that changes",
        "minutes": arguments.minutes,
        "refresh_s": arguments.refresh_interval,
        "every_s": arguments.every,
        "sensor_noise": SENSOR_NOISE,
        **{name: _staying(finals[name], views[name], arguments) for name in STAYING},
        "changing": _changing(finals["changing"], views["changing"]),
    }


async def _read(socket: Any, finals: dict[str, list[dict[str, Any]]]) -> None:
    async for text in socket:
        message = json.loads(text)
        if message["type"] == "caption":
            finals[message["stream"]].append(message)


def _staying(finals: list[dict[str, Any]], view: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """A refresh is due so many seconds of the stream's own time after the last."""
    seconds = (view["sampled"] - 1) * arguments.every
    return {
        "samples": view["sampled"],
        "processed": view["captions"] + view["extended"],
        "captions": len(finals),
        "captions_expected": int(seconds // arguments.refresh_interval) + 1,
        "extended": view["extended"],
        "decode_skipped": view["decode_skipped"],
        "sentences": sorted({c["text"] for c in finals}),
    }


def _changing(finals: list[dict[str, Any]], view: dict[str, Any]) -> dict[str, Any]:
    """The service's timeline begins with the first scene, so a caption's `start` is scene time."""
    script = SceneScript(SEED, SCENE_SECONDS)
    last = int(finals[-1]["start"] // SCENE_SECONDS)
    first_true: dict[int, float] = {}
    for final in finals:
        number = int(final["start"] // SCENE_SECONDS)
        if number not in first_true and final["text"] == script.scene(number).sentence:
            delay = final["start"] - number * SCENE_SECONDS + final["latency_ms"]["total"] / 1000
            first_true[number] = delay
    captioned = {int(final["start"] // SCENE_SECONDS) for final in finals}
    return {
        "changes": last,
        "captioned": len(captioned & set(range(last))),
        "captioned_truly": len([number for number in first_true if number < last]),
        "samples": view["sampled"],
        "processed": view["captions"] + view["extended"],
        "captions": len(finals),
        "extended": view["extended"],
        "decode_skipped": view["decode_skipped"],
        "delay_s": percentiles(first_true.values(), digits=3),
    }


def show(result: dict[str, Any]) -> None:
    table = Table(title=f"change gate, {result['minutes']:g} min, sampled every {result['every_s']:g} s")
    for column in ("stream", "samples", "processed", "captions", "expected", "decode skipped"):
        table.add_column(column, justify="left" if column == "stream" else "right")
    for name in STAYING:
        row = result[name]
        table.add_row(
            name,
            *(str(row[key]) for key in ("samples", "processed", "captions", "captions_expected", "decode_skipped")),
        )
    changing = result["changing"]
    table.add_row(
        "changing", *(str(changing[key]) for key in ("samples", "processed", "captions", "changes", "decode_skipped"))
    )
    console = Console()
    console.print(table)
    console.print(
        f"changes captioned {changing['captioned']} of {changing['changes']}, truly {changing['captioned_truly']}; "
        f"delay p50 {changing['delay_s']['p50']:.2f} s, p99 {changing['delay_s']['p99']:.2f} s"
    )


if __name__ == "__main__":
    main()
