"""What the change gate saves on a still scene, and what it costs on a changing one.

    python -m benchmarks.stillness [--minutes 10] [--refresh 60] [--json benchmarks/results/stillness.json]

Two streams in one service: one drawn scene that stays for the whole run, and scenes that change every 3 s. Wanted: one
caption per refresh for the first, the decode skipped for its other samples; every change captioned for the second, with
the delay from the change to the caption's arrival on a websocket.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from benchmarks.service import serving, streams
from streamcap.bench.machine import describe_machine
from streamcap.media.scenes import SceneScript

SCENE_SECONDS = 3.0
SEED = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--refresh", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=0.5)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/stillness.json"))
    arguments = parser.parse_args()
    result = asyncio.run(measure(arguments)) | {"machine": describe_machine(torch.device("cpu"))}
    show(result)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    sources = [f"still=scenes:?seed={SEED}&seconds=86400", f"changing=scenes:?seed={SEED}&seconds={SCENE_SECONDS:g}"]
    options = ["--every", str(arguments.every), "--refresh", str(arguments.refresh)]
    finals: dict[str, list[dict[str, Any]]] = {"still": [], "changing": []}
    async with serving([*sources, *options]) as service, connect(service.feed + "?interim=0") as socket:
        reading = asyncio.create_task(_read(socket, finals))
        await asyncio.sleep(60 * arguments.minutes)
        views = await asyncio.to_thread(streams, service.base)
        reading.cancel()
    return {
        "question": "change gate on a still and on a changing stream",
        "minutes": arguments.minutes,
        "refresh_s": arguments.refresh,
        "every_s": arguments.every,
        "still": _still(finals["still"], views["still"], arguments),
        "changing": _changing(finals["changing"], views["changing"]),
    }


async def _read(socket: Any, finals: dict[str, list[dict[str, Any]]]) -> None:
    async for text in socket:
        message = json.loads(text)
        if message["type"] == "caption":
            finals[message["stream"]].append(message)


def _still(finals: list[dict[str, Any]], view: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "samples": view["sampled"],
        "captions": len(finals),
        "captions_wanted": int(60 * arguments.minutes // arguments.refresh) + 1,
        "extended": view["extended"],
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
    delays = np.array([first_true[number] for number in sorted(first_true)])
    return {
        "changes": last,
        "captioned": len(captioned & set(range(last))),
        "captioned_truly": len([number for number in first_true if number < last]),
        "samples": view["sampled"],
        "captions": len(finals),
        "extended": view["extended"],
        "delay_s": {f"p{q}": round(float(np.percentile(delays, q)), 3) for q in (50, 95, 99)},
    }


def show(result: dict[str, Any]) -> None:
    still, changing = result["still"], result["changing"]
    table = Table(title=f"change gate, {result['minutes']:g} min, sampled every {result['every_s']:g} s")
    for column in ("stream", "samples", "captions", "wanted", "extended"):
        table.add_column(column, justify="left" if column == "stream" else "right")
    table.add_row("still", *(str(still[key]) for key in ("samples", "captions", "captions_wanted", "extended")))
    table.add_row(
        "changing", str(changing["samples"]), str(changing["captions"]), str(changing["changes"]),
        str(changing["extended"]),
    )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(
        f"changes captioned {changing['captioned']} of {changing['changes']}, truly {changing['captioned_truly']}; "
        f"delay p50 {changing['delay_s']['p50']:.2f} s, p99 {changing['delay_s']['p99']:.2f} s"
    )


if __name__ == "__main__":
    main()
