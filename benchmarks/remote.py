"""Remote models: time that streamcap adds to the first token, and what slow servers cost the other streams.

`python -m benchmarks.remote [--seconds 15]`; the server is scripted and runs in its own process.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from streamcap import load_captioner
from streamcap.engine.change_gate import ChangeGateOptions
from streamcap.engine.engine import EngineOptions
from streamcap.engine.model_settings import ModelSettings
from streamcap.engine.outcome import Captioned, Interim, Outcome
from streamcap.media.frame import Sample, SampledImage
from streamcap.models import ModelService, complete, load_models
from testbed.chat_server import Received, chat_server, delta, end_answer, start_answer, write_chunk

LOCAL_STREAMS, REMOTE_STREAMS = 12, 4
REQUESTS = 60


def serve(pipe: Connection, answer_seconds: float) -> None:
    """A process with a server that sends a first token at once, the rest after `answer_seconds`.

    Sends its URL, and for each request the monotonic time at which it had arrived.
    """

    numbers = itertools.count(1)

    async def handle(_received: Received, writer: asyncio.StreamWriter) -> None:
        pipe.send(time.monotonic())
        start_answer(writer)
        # Another text each time: that of the last final would be no interim caption.
        write_chunk(writer, delta(f"Person {next(numbers)} walks"))
        await writer.drain()
        await asyncio.sleep(answer_seconds)
        write_chunk(writer, delta(" along.", finish_reason="stop") + b"data: [DONE]\n\n")
        end_answer(writer)

    async def run() -> None:
        async with chat_server(handle) as server:
            pipe.send(server.url)
            await asyncio.Event().wait()

    asyncio.run(run())


class Server:
    def __init__(self, answer_seconds: float) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, answer_seconds), daemon=True)
        self._process.start()
        self.url = str(self.pipe.recv())

    def close(self) -> None:
        self._process.terminate()
        self._process.join()


class Bench:
    """A service with `mini` and a remote model, fed with random pictures."""

    def __init__(self, url: str, on_outcome: Callable[[Outcome], None]) -> None:
        models = complete({"talker": ModelSettings("openai:m", url=url)})
        loaded = load_models(models, lambda settings: load_captioner(settings.model, device="cpu"))
        options = EngineOptions(ChangeGateOptions(threshold=1e-6))  # every picture is another scene

        def deliver(outcomes: list[Outcome]) -> None:
            for outcome in outcomes:
                on_outcome(outcome)

        self.service = ModelService(models, "talker", loaded, options, deliver)
        self.service.engine.start()
        self._rng = np.random.default_rng(0)
        self._size = loaded["mini"].captioner.image_spec.size

    def submit(self, stream: str, model: str, start: float) -> Sample:
        """A sample of a new picture."""
        width, height = self._size
        blocks = self._rng.integers(0, 255, (8, 8, 3), np.uint8)
        pixels = np.kron(blocks, np.ones((height // 8, width // 8, 1), np.uint8))
        picture = np.kron(blocks, np.ones((36, 64, 1), np.uint8))
        now = time.monotonic()
        sample = Sample(stream, pixels, 0, start, now, "arrival", now, now, model)
        if model == "talker":
            sample = replace(sample, encoder="mini", images=(SampledImage(picture, 0.0),))
        self.service.engine.submit(sample)
        return sample

    async def close(self) -> None:
        await self.service.close_remotes()
        self.service.engine.stop(5)


async def first_token() -> None:
    server = Server(0.0)
    shown: asyncio.Queue[tuple[float, Interim]] = asyncio.Queue()
    finals: asyncio.Queue[Captioned] = asyncio.Queue()

    def on_outcome(outcome: Outcome) -> None:
        if isinstance(outcome, Interim):
            shown.put_nowait((time.monotonic(), outcome))
        elif isinstance(outcome, Captioned):
            finals.put_nowait(outcome)

    bench = Bench(server.url, on_outcome)
    added = []
    for number in range(REQUESTS + 5):
        bench.submit("door", "talker", float(number))
        at, interim = await shown.get()
        arrived = server.pipe.recv()
        # From the embedding of the image to the request's arrival, and from the first token, which is sent then.
        added.append(1000 * (at - interim.times.encoded))
        assert arrived <= at
        await finals.get()
    report("added to the first token, server's and network's time included", added[5:])
    await bench.close()
    server.close()


async def others_latency(seconds: float, *, remote: bool) -> list[float]:
    server = Server(10.0)
    latencies: list[float] = []

    def on_outcome(outcome: Outcome) -> None:
        if not isinstance(outcome, Interim) and outcome.sample.model == "mini":
            latencies.append(1000 * (time.monotonic() - outcome.sample.arrived))

    bench = Bench(server.url, on_outcome)
    streams = [(f"local-{number}", "mini") for number in range(LOCAL_STREAMS)]
    streams += [(f"remote-{number}", "talker") for number in range(REMOTE_STREAMS)] if remote else []
    began = time.monotonic()
    for number in range(round(seconds * len(streams))):
        name, model = streams[number % len(streams)]
        bench.submit(name, model, number / len(streams))
        await asyncio.sleep(max(0.0, began + (number + 1) / len(streams) - time.monotonic()))
    await asyncio.sleep(0.5)
    await bench.close()
    server.close()
    return latencies[LOCAL_STREAMS:]


def report(title: str, milliseconds: list[float]) -> None:
    p50, p99 = np.percentile(milliseconds, (50, 99))
    print(f"{title}: p50 {p50:.1f} ms, p99 {p99:.1f} ms (n = {len(milliseconds)})")


async def main(seconds: float) -> None:
    await first_token()
    runs: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(2):  # in turns, because the machine's load changes
        for remote in (False, True):
            runs[remote] += await others_latency(seconds, remote=remote)
    report(f"{LOCAL_STREAMS} local streams alone", runs[False])
    report(f"{LOCAL_STREAMS} local streams beside {REMOTE_STREAMS} remote ones of 10 s an answer", runs[True])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run of the second measurement")
    arguments: Any = parser.parse_args()
    asyncio.run(main(arguments.seconds))
