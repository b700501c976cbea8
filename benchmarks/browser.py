"""A browser's camera captioned on the page: share of correct captions, and time until a killed browser is noticed.

    python -m benchmarks.browser [--seeds 5] [--captions 36] [--json benchmarks/results/browser.json]

For each seed, a headless Chromium plays a film of six drawn scenes as its camera and publishes it over WHIP. The page
shows the captions of the received video: one every half second, with the change gate off. Then Chromium is killed with
SIGKILL, and a viewer of the feed waits for the status event. Goals: 90 % of the captions correct; noticed within 5 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from benchmarks.results import RESULTS, write_result
from benchmarks.running_service import serving
from streamcap.bench.machine import describe_machine
from testbed.browser import CAPTIONS_SHOWN, chromium, kill_chromium, page_without_errors, publish_camera
from testbed.film import Film

GOAL_TRUE = 0.9
GOAL_SECONDS = 5.0
TROUBLE = ("stalled", "reconnecting")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="films, each with a seed of its own, from 1")
    parser.add_argument("--captions", type=int, default=36, help="to judge, of each film; the page holds 60")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--json", type=Path, default=RESULTS / "browser.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [asyncio.run(measure(seed, arguments, Path(folder))) for seed in range(1, arguments.seeds + 1)]
    result = {
        "question": "a browser's camera captioned on the page, and a killed browser noticed",
        "model": arguments.model,
        "goal": {"true": GOAL_TRUE, "noticed_s": GOAL_SECONDS},
        "true": round(sum(row["right"] for row in rows) / sum(row["captions"] for row in rows), 4),
        "noticed_s": max(row["after_kill_s"]["stalled"] for row in rows),
        "rows": rows,
        "machine": describe_machine(torch.device("cpu")),
    }
    show(result)
    write_result(arguments.json, result)


async def measure(seed: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One film, one browser, one service."""
    film = Film(seed=seed)
    camera = film.write(folder / f"camera-{seed}.y4m")
    options = ["tab=whip:", "--every", "0.5", "--change-threshold", "0", "--model", arguments.model]
    async with serving(options) as service, connect(service.feed + "?interim=0") as feed, chromium(camera) as browser:
        states: list[tuple[float, str]] = []
        reading = asyncio.create_task(_read(feed, states))
        page = await page_without_errors(browser, service.base)
        await publish_camera(page, "tab")
        while await page.locator(".past li").count() < arguments.captions:  # noqa: ASYNC110 - the page's own state
            await asyncio.sleep(0.2)
        shown = [(start, text) for start, text in await page.evaluate(CAPTIONS_SHOWN)]
        killed = time.monotonic()
        kill_chromium(camera)
        while not (states and states[-1][1] == TROUBLE[-1] and states[-1][0] > killed):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
        reading.cancel()
    noticed = {state: at - killed for at, state in reversed(states) if at > killed and state in TROUBLE}
    right = film.right(shown)
    return {
        "seed": seed,
        "captions": len(shown),
        "right": sum(right),
        "true": round(sum(right) / len(right), 4),
        "scenes": [film.script.scene(number).sentence for number in range(film.scenes)],
        "wrong": [text for (_, text), true in zip(shown, right, strict=True) if not true],
        "after_kill_s": {state: round(seconds, 2) for state, seconds in noticed.items()},
    }


async def _read(feed: Any, states: list[tuple[float, str]]) -> None:
    """The stream's states, with the time at which each arrived."""
    async for text in feed:
        message = json.loads(text)
        if message["type"] == "status":
            states.append((time.monotonic(), message["state"]))


def show(result: dict[str, Any]) -> None:
    table = Table(title="a browser's camera, captioned on the page")
    for column in ("seed", "captions", "true", "stalled after kill", "waits again after"):
        table.add_column(column, justify="right")
    for row in result["rows"]:
        table.add_row(
            str(row["seed"]),
            str(row["captions"]),
            f"{100 * row['true']:.0f} %",
            *(f"{row['after_kill_s'][state]:.1f} s" for state in TROUBLE),
        )
    console = Console()
    console.print(table)
    console.print(
        f"{100 * result['true']:.1f} % true (goal {100 * GOAL_TRUE:.0f} %), a killed browser noticed after "
        f"{result['noticed_s']:.1f} s at most (goal {GOAL_SECONDS:g} s)"
    )


if __name__ == "__main__":
    main()
