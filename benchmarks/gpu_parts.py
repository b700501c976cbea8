"""The parts of `benchmarks.gpu`, each a function of the device and the sizes that returns JSON."""

from __future__ import annotations

import io
import logging
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.codec.hwaccel import HWAccel
from torch import nn

from benchmarks.gpu_sizes import Sizes
from streamcap.bench import continuous_batching, decode, encode
from streamcap.bench.machine import BandwidthProbe, describe_machine
from streamcap.bench.timing import interleaved, synchronize
from streamcap.captioner.captioner import Captioner
from streamcap.captioner.checkpoints.checkpoint import Checkpoint, EmbeddingShape
from streamcap.captioner.checkpoints.decoder import load_gpt2
from streamcap.captioner.decoding.batch import Request, StopCriteria
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.decoding.cuda_graphs import GraphedCallable, capture_failed
from streamcap.captioner.decoding.draft_budget import DraftBudget
from streamcap.captioner.decoding.drafts import Acceptances, DraftStatistics, TokenDraft
from streamcap.captioner.decoding.verifier import Verifier
from streamcap.captioner.kernels import fused_step
from streamcap.captioner.kernels.precision import find_device
from streamcap.captioner.models.prompt import MappedPrefixPrompter, Prompt
from streamcap.engine.change_gate import ChangeGateOptions
from streamcap.engine.engine import Engine, EngineOptions
from streamcap.engine.live import LiveModel
from streamcap.engine.outcome import Failed, Interim, Outcome
from streamcap.media.frame import Sample

PRECISION = "fp16"
WARM_UP_SECONDS = 1.0
DRAIN_SECONDS = 10.0


def same_tokens(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """fp32 with CUDA graphs, compared with transformers on the GPU: the tokens must be the same."""
    model = decode.random_gpt2()
    gpt2 = decode.ours(model, "fp32", device)
    theirs = model.to(device)
    torch.manual_seed(1)
    prefixes = 0.1 * torch.randn(8, decode.PREFIX, gpt2.config.n_embd, device=device)
    decoder = decode.Decoder(gpt2, 8)
    rows = [decoder(prefixes) for _ in range(2)]
    expected = decode.generate(theirs, prefixes)
    return {"frames": 8, "same_as_transformers": rows[0] == expected, "same_again": rows[0] == rows[1]}


def decoding(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    slow = ["loop", "transformers, static", "streamcap, each"]
    result = decode.measure_decode(
        device, frames=sizes.frames, precisions=[PRECISION], rounds=sizes.rounds, leave_out=slow
    )
    print(decode.table(result))
    return result


def encoding(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    result = encode.measure_encode(device, frames=sizes.frames, precisions=[PRECISION], rounds=sizes.rounds)
    print(encode.table(result))
    return result


def one_frame(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Pixels in host memory to 20 tokens on the host, and to the first token."""
    tower = encode.tower(encode.random_clip(), PRECISION, device)
    gpt2 = decode.ours(decode.random_gpt2(), PRECISION, device)
    mapping = encode.mapping(tower.width, gpt2, decode.PREFIX)
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    if device.type == "cuda":
        pixels = pixels.pin_memory()

    def encode_prefix(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (mapping(tower.encode(batch)).view(1, decode.PREFIX, -1),)

    batch: CudaGraphBatch[int] = CudaGraphBatch(
        gpt2, StopCriteria(decode.TOKENS, frozenset({decode.NEVER})), max_rows=1
    )
    with torch.inference_mode():
        replay = GraphedCallable(encode_prefix, [pixels.to(device)], device)
    first, last = [], []
    for _ in range(10 + 5 * sizes.rounds):
        synchronize(device)
        began = time.perf_counter()
        with torch.inference_mode():
            (prefix,) = replay(pixels)
        batch.add(0, Prompt(prefix[0]))
        batch.step()
        first.append(1000 * (time.perf_counter() - began))
        while batch.active:
            batch.step()
        last.append(1000 * (time.perf_counter() - began))
    probe = BandwidthProbe(decode.weight_bytes(gpt2, PRECISION), device)
    floor = interleaved({"floor": lambda: [probe() for _ in range(decode.TOKENS)]}, device, rounds=sizes.rounds)[
        "floor"
    ]
    result = {
        "first_token_ms": round(statistics.median(first[10:]), 3),
        "last_token_ms": round(statistics.median(last[10:]), 3),
        "floor_ms": round(1000 * floor.median, 3),
        "to_floor": round(statistics.median(last[10:]) / (1000 * floor.median), 2),
    }
    print(result)
    return result


def drafts(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Prefix to 20 tokens on the host, one frame: without a draft, and with a right, a half right and an absurd one."""
    gpt2 = decode.ours(decode.random_gpt2(), PRECISION, device)
    stop_criteria = StopCriteria(decode.TOKENS, frozenset({decode.NEVER}))
    verifier = Verifier(DraftBudget(), DraftStatistics(), gpt2.config.vocab_size)
    plain: CudaGraphBatch[int] = CudaGraphBatch(gpt2, stop_criteria, max_rows=1)
    drafted: CudaGraphBatch[int] = CudaGraphBatch(gpt2, stop_criteria, max_rows=1, verifier=verifier)
    torch.manual_seed(1)
    prompt = Prompt((0.1 * torch.randn(decode.PREFIX, gpt2.config.n_embd)).to(device, gpt2.dtype))

    def caption(draft: list[int] | None) -> Request[int]:
        batch = plain if draft is None else drafted
        batch.add(0, prompt, None if draft is None else TokenDraft(draft, Acceptances()))
        finished: list[Request[int]] = []
        while batch.active:
            finished += batch.step()
        return finished[0]

    tokens = caption(None).tokens
    wrong = [(token + 1) % gpt2.config.vocab_size for token in tokens]
    guesses = {"none": None, "right": tokens, "half right": tokens[:10] + wrong[10:], "absurd": wrong}
    ways = {name: partial(caption, guess) for name, guess in guesses.items()}
    for caption_with_draft in ways.values():
        for _ in range(5):  # records the graphs, and measures their passes
            caption_with_draft()
    timings = interleaved(ways, device, rounds=sizes.rounds)
    result: dict[str, Any] = {}
    for name, way in ways.items():
        row = way()
        median = round(1000 * timings[name].median, 3)
        result[name] = {"median_ms": median, "passes": row.passes, "same_tokens": row.tokens == tokens}
        print(f"draft {name}: {median:.2f} ms, {row.passes} passes, same tokens: {row.tokens == tokens}")
    return result


def arithmetic(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """fp16 throughput of a large matmul: the floor of large batches."""
    side = math.isqrt(sizes.large) // 2
    one = torch.randn(side, side, device=device, dtype=torch.float16)
    timing = interleaved({"matmul": lambda: one @ one}, device, rounds=sizes.rounds)["matmul"]
    teraflops = 2 * side**3 / timing.median / 1e12
    gpt2 = decode.ours(decode.random_gpt2(), PRECISION, device)
    head = gpt2.config.n_embd * gpt2.config.vocab_size
    layers = decode.weight_bytes(gpt2, PRECISION) // 2 - head
    multiplications = layers * (decode.PREFIX + decode.TOKENS - 1) + head * decode.TOKENS
    floors = {str(frames): round(2000 * frames * multiplications / (teraflops * 1e12), 3) for frames in sizes.frames}
    result = {"teraflops_fp16": round(teraflops, 1), "floor_ms": floors}
    print(result)
    return result


def bandwidth(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """GB/s of this GPU's memory, for reading and for a copy (read and write both counted).

    And the milliseconds to read weights and cache for all tokens at the best of these rates.
    """
    one = torch.ones(sizes.large, device=device, dtype=torch.int64)
    other = torch.empty_like(one)
    ways: dict[str, Callable[[], object]] = {
        "sum of int64": one.sum,
        "sum of float32": one.view(torch.float32).sum,
        "copy": lambda: other.copy_(one),
    }
    timings = interleaved(ways, device, rounds=sizes.rounds)
    moved = {
        name: 8 * sizes.large * (2 if name == "copy" else 1) / timing.median / 1e9 for name, timing in timings.items()
    }
    gpt2 = decode.ours(decode.random_gpt2(), PRECISION, device)
    config = gpt2.config
    weights = decode.TOKENS * decode.weight_bytes(gpt2, PRECISION)
    positions_read = sum(range(decode.PREFIX + 1, decode.PREFIX + decode.TOKENS))
    cache = positions_read * 2 * config.n_layer * config.n_embd * 2
    best = max(moved.values())
    floors = {str(frames): round((weights + frames * cache) / best / 1e6, 3) for frames in sizes.frames}
    result = {"gb_s": {name: round(each, 1) for name, each in moved.items()}, "floor_ms": floors}
    print(result)
    return result


class _Messages(logging.Handler):
    last = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()


def fused(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """The fused decode pass: whether it runs here, or why not; against torch's kernels, both in CUDA graphs."""
    messages = _Messages()
    fused_step.log.addHandler(messages)
    began = time.perf_counter()
    gpt2 = decode.ours(decode.random_gpt2(), PRECISION, device)
    result: dict[str, Any] = {"load_seconds": round(time.perf_counter() - began, 1)}
    result["used"] = gpt2.fused_step is not None
    if gpt2.fused_step is None:
        return result | {"reason": messages.last or fused_step.unavailable(device)}
    step, rows = gpt2.fused_step, []
    for count in sizes.frames:
        if count > step.max_queries:
            continue
        torch.manual_seed(1)
        prefixes = (0.1 * torch.randn(count, decode.PREFIX, gpt2.config.n_embd)).to(device, gpt2.dtype)
        ways = {}
        for name, way in (("fused", step), ("torch", None)):
            gpt2.fused_step = way
            ways[name] = partial(decode.Decoder(gpt2, count), prefixes)
            ways[name]()  # records its graphs
        tokens = {name: call() for name, call in ways.items()}
        flat = [[token for row in tokens[name] for token in row] for name in ("fused", "torch")]
        pairs = list(zip(*flat, strict=True))
        timings = interleaved(ways, device, rounds=3 * sizes.rounds)
        medians = {f"{name}_ms": round(1000 * timing.median, 3) for name, timing in timings.items()}
        same = sum(one == two for one, two in pairs) / len(pairs)
        ratio = round(medians["fused_ms"] / medians["torch_ms"], 3)
        rows.append({"frames": count, **medians, "ratio": ratio, "same_tokens": round(same, 3)})
        print(rows[-1])
    return result | {"rows": rows}


class _Prefix(nn.Module):
    """A mapping whose output is one row a position."""

    def __init__(self, mapping: nn.Module) -> None:
        super().__init__()
        self.mapping = mapping

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.mapping(x)
        return out.view(len(x), decode.PREFIX, -1)


class _Numbers(Captioner):
    """Random weights have no words: a caption's text is its tokens."""

    def text(self, tokens: list[int]) -> str:
        return " ".join(map(str, tokens))


def captioner(device: torch.device, sizes: Sizes) -> Captioner:
    """ViT-B/32, an MLP and GPT-2 124M with random weights."""
    theirs = decode.random_gpt2()
    gpt2 = load_gpt2(theirs.state_dict(), theirs.config.to_dict(), "random weights", prefix="")
    vision = encode.float_tower(encode.random_clip())
    prompter = MappedPrefixPrompter(_Prefix(encode.mapping(vision.width, gpt2, decode.PREFIX)))
    checkpoint = Checkpoint(
        "random", Path("random"), gpt2, prompter, EmbeddingShape(vision.width),
        frozenset({decode.NEVER}), decode.TOKENS, vision=vision,
    )  # fmt: skip
    return _Numbers(checkpoint, device=device, precision=PRECISION)


def engine(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Many streams, each with a caption a second, through the service's engine; milliseconds from frame to final."""
    model = LiveModel(captioner(device, sizes))
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (32, 224, 224, 3), dtype=np.uint8)
    options = EngineOptions(ChangeGateOptions(0.0))
    size = 1
    while size <= min(options.max_batch, sizes.streams):  # records the graphs
        embeddings = model.encode(np.stack([images[number % len(images)] for number in range(size)]))
        model.decode(embeddings, streams=[f"warm-{number}" for number in range(size)])
        size *= 2
    latencies: list[float] = []
    counts: Counter[str] = Counter()
    measure_from = time.monotonic() + WARM_UP_SECONDS

    def deliver(outcomes: list[Outcome]) -> None:
        now = time.monotonic()
        for outcome in outcomes:
            if outcome.sample.submitted < measure_from or isinstance(outcome, Interim):
                continue
            counts[type(outcome).__name__] += 1
            if not isinstance(outcome, Failed):  # also where the text is that of the last caption
                latencies.append(now - outcome.sample.submitted)

    running = Engine({"": model}, options, deliver)
    running.start()
    began = time.monotonic()
    submitted = 0
    for number in range(int(sizes.streams * (WARM_UP_SECONDS + sizes.stream_seconds))):
        due = began + number / sizes.streams
        time.sleep(max(0.0, due - time.monotonic()))
        stream, now = number % sizes.streams, time.monotonic()
        submitted += now >= measure_from
        image = images[generator.integers(len(images))]
        running.submit(Sample(f"s{stream}", image, 0, number / sizes.streams, time.time(), "arrival", now, now))
    end = time.monotonic() + DRAIN_SECONDS
    while len(running._queue) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)  # for the last batch
    superseded = sum(running.statistics.superseded.values())
    stopped = running.stop(30)
    if len(latencies) < 2:
        raise RuntimeError(f"{len(latencies)} of {submitted} samples were captioned: {dict(counts)}")
    statistics_ = running.statistics.models[""]
    cuts = statistics.quantiles(latencies, n=100)
    result = {
        "streams": sizes.streams,
        "samples": submitted,
        "captions": len(latencies),
        "superseded": superseded,
        "outcomes": dict(counts),
        "p50_ms": round(1000 * statistics.median(latencies), 2),
        "p99_ms": round(1000 * cuts[98], 2),
        "max_ms": round(1000 * max(latencies), 2),
        "mean_batch": round(statistics_.samples / max(1, statistics_.batches), 1),
        "device_busy": round(statistics_.busy_seconds / (time.monotonic() - began), 2),
        "stopped": stopped,
    }
    print(result)
    return result


def video(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Decoding H.264 on the GPU and in software, one thread: frames a second, and CPU milliseconds a frame."""
    clip = _clip(sizes)
    result: dict[str, Any] = {"size": list(sizes.video_size), "frames": sizes.video_frames}
    ways = {"software": None, "cuda": partial(HWAccel, "cuda", allow_software_fallback=False)}
    for name, hwaccel in ways.items():
        try:
            result[name] = min((_decode(clip, hwaccel) for _ in range(3)), key=lambda run: -run["frames_per_second"])
        except (av.FFmpegError, RuntimeError) as error:
            result[name] = {"failed": f"{type(error).__name__}: {error}"}
        print(f"decoding, {name}: {result[name]}")
    return result


def _clip(sizes: Sizes) -> bytes:
    """A moving pattern with noise, H.264, a keyframe a second."""
    width, height = sizes.video_size
    noise = np.random.default_rng(0).integers(0, 60, (height, 2 * width, 3), dtype=np.uint8)
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "g": "30"})
        stream.width, stream.height, stream.pix_fmt, stream.time_base = width, height, "yuv420p", Fraction(1, 30)
        for number in range(sizes.video_frames):
            image = np.ascontiguousarray(noise[:, (4 * number) % width :][:, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return out.getvalue()


def _decode(clip: bytes, hwaccel: Callable[[], HWAccel] | None) -> dict[str, Any]:
    with av.open(io.BytesIO(clip), "r", hwaccel=hwaccel() if hwaccel else None) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        began, cpu = time.perf_counter(), time.process_time()
        frames = sum(1 for _ in container.decode(stream))
        taken, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        "decoded": frames,
        "frames_per_second": round(frames / taken, 1),
        "cpu_ms_per_frame": round(1000 * cpu / frames, 3),
    }


def continuous(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    gpt2 = decode.ours(decode.random_gpt2(), PRECISION, device)
    loads = []
    for load in sizes.loads:
        result = continuous_batching.measure_continuous_batching(
            gpt2, streams=sizes.batching_streams, load=load, seconds=sizes.batching_seconds, max_rows=16
        )
        print(f"load {load:g}\n{continuous_batching.table(result)}")
        loads.append(result)
    return {"loads": loads}


PARTS: dict[str, Callable[[torch.device, Sizes], dict[str, Any]]] = {
    "same tokens": same_tokens,
    "fused": fused,
    "one frame": one_frame,
    "drafts": drafts,
    "bandwidth": bandwidth,
    "arithmetic": arithmetic,
    "decode": decoding,
    "engine": engine,
    "continuous": continuous,
    "video": video,
    "encode": encoding,
}


def _use_small_models() -> None:
    """Replace the random models of this process."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, GPT2Config, GPT2LMHeadModel

    def gpt2(seed: int = 0) -> Any:
        torch.manual_seed(seed)
        sizes: dict[str, Any] = {"vocab_size": 120, "n_positions": 96, "n_embd": 64, "n_layer": 2, "n_head": 4}
        sizes |= {"bos_token_id": 119, "eos_token_id": 119, "initializer_range": 0.25}
        model: Any = GPT2LMHeadModel(GPT2Config(**sizes))
        return model.eval()

    def clip(seed: int = 0) -> Any:
        torch.manual_seed(seed)
        sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "patch_size": 32}
        sizes |= {"num_attention_heads": 1, "num_hidden_layers": 2}
        model: Any = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes))
        return model.eval()

    decode.random_gpt2, encode.random_clip = gpt2, clip


def run(name: str, device: str, sizes: Sizes) -> dict[str, Any]:
    """One part, in a process of its own. `graphs`: whether CUDA graphs could be recorded."""
    logging.basicConfig(level=logging.WARNING)
    if name == "machine":
        return describe_machine(find_device(device))
    if sizes.small_models:
        _use_small_models()
    os.environ["STREAMCAP_CUDA_DRAFTS"] = "1"
    result = PARTS[name](find_device(device), sizes)
    return result | {"graphs": not capture_failed()}
