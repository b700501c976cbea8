"""How long a saved configuration file takes to act: `python -m benchmarks.reload`. Goal: within 1 s.

Sixteen `scenes:` streams of 10 frames a second; each save changes one of them. The file is written as editors do it.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.results import RESULTS, write_result
from streamcap.bench.machine import describe_machine
from streamcap.captions.hub import Hub
from streamcap.cli.service.serve_options import load_checked
from streamcap.config.reload import Reloader
from streamcap.engine.served_model import ServedModel, ServedModels
from streamcap.engine.statistics import EngineStatistics
from streamcap.media.sources import open_source
from streamcap.streams.options import StreamOptions
from streamcap.streams.stream_deps import StreamDeps
from streamcap.streams.stream_set import StreamSet

STREAMS, SAVES, RATE = 16, 10, 10


def content(every: float) -> str:
    """The first stream's interval is `every`."""
    lines = [
        f'  cam{number}: {{url: "scenes:?size=64x64&rate={RATE}", every: {every if number == 0 else 60}}}'
        for number in range(STREAMS)
    ]
    return "\n".join(["streams:", *lines, ""])


def save(path: Path, every: float) -> float:
    """As editors do it. Returns the time."""
    other = path.with_suffix(".new")
    other.write_text(content(every))
    saved = time.monotonic()
    other.replace(path)
    return saved


async def measure(path: Path) -> dict[str, float]:
    config = load_checked(path, {})
    options = StreamOptions()
    streams = StreamSet(options, Hub(time.monotonic, time.time))
    nothing = ServedModel("nothing", "captions nothing", None, lambda frames: np.zeros((1, 1, 3), np.uint8))
    deps = StreamDeps(
        options=options,
        hub=streams.hub,
        open_source=lambda url, scope: open_source(url),
        models=ServedModels([nothing], "nothing"),
        submit=lambda sample: None,
    )
    streams.begin(deps, forget=lambda name: None, engine=EngineStatistics())
    for name, stream in config.streams.items():
        await streams.add(name, stream.url, stream.settings)
    watching = asyncio.create_task(Reloader(config, lambda: load_checked(path, {}), path).watch(streams))
    await asyncio.sleep(2)
    seconds = []
    changed = streams.get("cam0")
    frames = {name: streams.get(name).source_statistics.frames for name in streams.names()}
    began = time.monotonic()
    for number in range(SAVES):
        every = 30.0 + number
        saved = save(path, every)
        async with asyncio.timeout(30):
            while changed.every != every:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.005)
        seconds.append(time.monotonic() - saved)
        await asyncio.sleep(0.5)
    expected = (time.monotonic() - began) * RATE
    got = [streams.get(name).source_statistics.frames - before for name, before in frames.items()]
    watching.cancel()
    await asyncio.wait((watching,))
    await streams.close()
    return {
        "from saving to acting, s, median": statistics.median(seconds),
        "from saving to acting, s, worst": max(seconds),
        "frames expected of each stream": expected,
        "frames read, fewest of 16": min(got),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cams.yaml"
        save(path, 60)
        result = {key: round(value, 2) for key, value in asyncio.run(measure(path)).items()}
    print("\n".join(f"{key:<40} {value:g}" for key, value in result.items()))
    content = {**result, "machine": describe_machine(torch.device("cpu"))}
    write_result(RESULTS / "reload.json", content)


if __name__ == "__main__":
    main()
