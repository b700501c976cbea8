"""Remote models, against a scripted server in a process of its own: `python -m benchmarks.remote [PART ...]`.

first-token  what streamcap adds to the time to the first token of a bare httpx client, in turns in one run: ≤ 5 ms p50
still        requests saved on a still scene with sensor noise: ≥ 95 %
slow         p99 of 12 local streams beside 4 remote ones of 10 s an answer, in turns: within 10 %
death        a server killed in mid-answer under 8 streams: the fallback within 2 s, back within 5 s of its return
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import httpx
import numpy as np
import torch

from benchmarks.results import RESULTS, write_result
from streamcap import load_captioner
from streamcap.bench.machine import describe_machine
from streamcap.engine.change_gate import DEFAULT_THRESHOLD, ChangeGateOptions
from streamcap.engine.engine import EngineOptions
from streamcap.engine.model_settings import ModelSettings
from streamcap.engine.outcome import Captioned, Interim, Outcome
from streamcap.engine.remote.remote_model import to_jpeg
from streamcap.engine.remote.request import JpegImage, body, endpoint, headers
from streamcap.media.frame import Pixels, Sample, SampledImage
from streamcap.service.models import ModelService, complete, load_models
from testbed.http.chat_server import ChatServer, Received, delta, end_answer, start_answer, write_chunk

LOCAL_STREAMS, REMOTE_STREAMS, DYING_STREAMS = 12, 4, 8
REQUESTS, STILL_SAMPLES = 100, 300
SLOW_ANSWER_SECONDS = 10.0


def serve(pipe: Connection, answer_seconds: float, port: int) -> None:
    """A process with a server that sends a first token at once, the rest after `answer_seconds`. Sends its port."""

    numbers = itertools.count(1)

    async def handle(_received: Received, writer: asyncio.StreamWriter) -> None:
        start_answer(writer)
        # Another text each time: that of the last final would be no interim caption.
        write_chunk(writer, delta(f"Person {next(numbers)} walks"))
        await writer.drain()
        await asyncio.sleep(answer_seconds)
        write_chunk(writer, delta(" along.", finish_reason="stop") + b"data: [DONE]\n\n")
        end_answer(writer)

    async def run() -> None:
        server = ChatServer(handle, port=port)
        await server.start()
        pipe.send(server.port)
        await asyncio.Event().wait()

    asyncio.run(run())


class Server:
    def __init__(self, answer_seconds: float, port: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, answer_seconds, port), daemon=True)
        self._process.start()
        self.port = int(pipe.recv())
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


class Bench:
    """A service with `mini` and a remote model, fed with pictures."""

    def __init__(
        self, url: str, on_outcome: Callable[[Outcome], None], *, threshold: float = 1e-6, **settings: Any
    ) -> None:
        self.settings = ModelSettings("openai:m", url=url, **settings)
        models = complete({"talker": self.settings})
        loaded = load_models(models, lambda settings: load_captioner(settings.model, device="cpu"))

        def deliver(outcomes: list[Outcome]) -> None:
            for outcome in outcomes:
                on_outcome(outcome)

        # With the default of `threshold`, every picture is another scene.
        options = EngineOptions(ChangeGateOptions(threshold=threshold))
        self.service = ModelService(models, "talker", loaded, options, deliver)
        self.service.engine.start()
        self._rng = np.random.default_rng(0)
        self._size = loaded["mini"].captioner.image_spec.size

    @property
    def remote(self) -> Any:
        return self.service.engine.statistics.remotes["talker"]

    def blocks(self) -> Pixels:
        return self._rng.integers(0, 255, (8, 8, 3), np.uint8)

    def noisy(self, blocks: Pixels, sigma: float) -> Pixels:
        """`blocks` as a camera's sensor sees them."""
        width, height = self._size
        pixels = np.kron(blocks, np.ones((height // 8, width // 8, 1), np.uint8))
        return np.clip(pixels + self._rng.normal(0, sigma, pixels.shape), 0, 255).astype(np.uint8)

    def submit(self, stream: str, model: str, start: float, blocks: Pixels | None = None, sigma: float = 0.0) -> Sample:
        """A sample; without `blocks` of a new picture."""
        blocks = self.blocks() if blocks is None else blocks
        now = time.monotonic()
        sample = Sample(stream, self.noisy(blocks, sigma), 0, start, now, "arrival", now, now, model)
        if model == "talker":
            sample = replace(sample, encoder="mini", images=(SampledImage(picture_of(blocks), 0.0),))
        self.service.engine.submit(sample)
        return sample

    async def close(self) -> None:
        await self.service.close_remotes()
        self.service.engine.stop(5)


def picture_of(blocks: Pixels) -> Pixels:
    """512 x 288, as it is sent."""
    return np.kron(blocks, np.ones((36, 64, 1), np.uint8))


async def first_token() -> dict[str, float]:
    """In turns: a request of our own service, and the same bytes sent by a bare client."""
    server = Server(0.0)
    shown: asyncio.Queue[tuple[float, Interim]] = asyncio.Queue()
    finals: asyncio.Queue[Captioned] = asyncio.Queue()

    def on_outcome(outcome: Outcome) -> None:
        if isinstance(outcome, Interim):
            shown.put_nowait((time.monotonic(), outcome))
        elif isinstance(outcome, Captioned):
            finals.put_nowait(outcome)

    bench = Bench(server.url, on_outcome)
    bare: list[float] = []
    whole: list[float] = []
    encoded: list[float] = []
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for number in range(REQUESTS + 5):
            blocks = bench.blocks()
            sample = bench.submit("door", "talker", float(number), blocks)
            at, interim = await shown.get()
            whole.append(at - sample.submitted)
            encoded.append(at - interim.times.encoded)
            await finals.get()
            jpeg = to_jpeg(picture_of(blocks), bench.settings.jpeg_quality)
            content = body(bench.settings, [JpegImage(jpeg, 0.0)])
            began = time.monotonic()
            url = endpoint(server.url)
            async with client.stream("POST", url, content=content, headers=headers(None)) as response:
                chunks = response.aiter_bytes()
                await anext(chunks)
                bare.append(time.monotonic() - began)
                async for _ in chunks:
                    pass
    await bench.close()
    server.kill()
    bare_p50, whole_p50, encoded_p50 = (1000 * float(np.median(seconds[5:])) for seconds in (bare, whole, encoded))
    return {
        "bare client, ms p50": bare_p50,
        "added, from the image's embedding on, ms p50": encoded_p50 - bare_p50,
        "added, with mini's encoder and the queue, ms p50": whole_p50 - bare_p50,
    }


async def still_scene() -> dict[str, float]:
    """One sample a second of a scene in which only the sensor's noise changes."""
    server = Server(0.0)
    answered = asyncio.Event()
    bench = Bench(server.url, lambda outcome: None if isinstance(outcome, Interim) else answered.set(),
                  threshold=DEFAULT_THRESHOLD)  # fmt: skip
    blocks = bench.blocks()
    for number in range(STILL_SAMPLES):
        answered.clear()
        bench.submit("door", "talker", float(number), blocks, sigma=3.0)
        await answered.wait()
    sent, saved = bench.remote.sent, bench.remote.saved
    await bench.close()
    server.kill()
    return {"samples": STILL_SAMPLES, "requests": sent, "saved, %": 100 * saved / STILL_SAMPLES}


async def others_latency(seconds: float, *, remote: bool) -> list[float]:
    server = Server(SLOW_ANSWER_SECONDS)
    latencies: list[float] = []

    def on_outcome(outcome: Outcome) -> None:
        if not isinstance(outcome, Interim) and outcome.sample.model == "mini":
            latencies.append(1000 * (time.monotonic() - outcome.sample.arrived))

    bench = Bench(server.url, on_outcome)
    streams = [(f"local-{number}", "mini") for number in range(LOCAL_STREAMS)]
    # Without the remote ones, four more that nobody captions keep the pace.
    streams += [(f"remote-{number}", "talker" if remote else "") for number in range(REMOTE_STREAMS)]
    began = time.monotonic()
    for number in range(round(seconds * len(streams))):
        name, model = streams[number % len(streams)]
        if model:
            bench.submit(name, model, number / len(streams))
        await asyncio.sleep(max(0.0, began + (number + 1) / len(streams) - time.monotonic()))
    await asyncio.sleep(0.5)
    await bench.close()
    server.kill()
    return latencies[LOCAL_STREAMS:]


async def slow_servers(seconds: float) -> dict[str, float]:
    runs: dict[bool, list[float]] = {False: [], True: []}
    for remote in (False, True, True, False):  # in turns, because the machine's load changes
        runs[remote] += await others_latency(seconds, remote=remote)
    (alone_p50, alone_p99), (p50, p99) = (np.percentile(runs[remote], (50, 99)) for remote in (False, True))
    return {
        "alone, ms p50": alone_p50,
        "alone, ms p99": alone_p99,
        "beside slow ones, ms p50": p50,
        "beside slow ones, ms p99": p99,
        "p99 ratio": p99 / alone_p99,
    }


async def death() -> dict[str, float]:
    """Eight streams, a caption a second each; the server needs 0.5 s an answer."""
    server = Server(0.5)
    names = [f"camera-{number}" for number in range(DYING_STREAMS)]
    finals: list[tuple[float, str, str]] = []
    mid_answer = asyncio.Event()

    def on_outcome(outcome: Outcome) -> None:
        if isinstance(outcome, Interim) and outcome.sample.model == "talker":
            mid_answer.set()
        elif isinstance(outcome, Captioned):
            finals.append((time.monotonic(), outcome.sample.stream, outcome.sample.model))

    bench = Bench(server.url, on_outcome, fallback="mini", in_flight=DYING_STREAMS)

    async def feed() -> None:
        for second in itertools.count():
            for name in names:
                bench.submit(name, "talker", float(second))
                await asyncio.sleep(1 / len(names))

    async def until_all(model: str, since: float) -> float:
        async with asyncio.timeout(60):
            while True:
                firsts = [next((at for at, *one in finals if at > since and one == [name, model]), 0) for name in names]
                if all(firsts):
                    return max(firsts) - since
                await asyncio.sleep(0.01)

    feeding = asyncio.create_task(feed())
    taken_over, back = [], []
    try:
        for _ in range(3):
            await until_all("talker", time.monotonic())
            mid_answer.clear()
            await mid_answer.wait()
            server.kill()
            taken_over.append(await until_all("mini", time.monotonic()))
            await asyncio.sleep(3)
            server = Server(0.5, server.port)
            back.append(await until_all("talker", time.monotonic()))
    finally:
        feeding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await feeding
    await bench.close()
    server.kill()
    return {"all streams on the fallback after, s, worst of 3": max(taken_over), "all back after, s, worst": max(back)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each of the four runs of `slow`")
    parser.add_argument("parts", nargs="*", default=["first-token", "still", "slow", "death"])
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], Any]] = {
        "first-token": first_token,
        "still": still_scene,
        "slow": lambda: slow_servers(arguments.seconds),
        "death": death,
    }
    file = RESULTS / "remote.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for part in arguments.parts:
        results[part] = {key: round(float(value), 2) for key, value in asyncio.run(parts[part]()).items()}
        print(part, *(f"  {key:<52} {value:g}" for key, value in results[part].items()), sep="\n", flush=True)
    results["machine"] = describe_machine(torch.device("cpu"))
    write_result(file, results)


if __name__ == "__main__":
    main()
