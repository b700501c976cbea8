"""Greedy decoding with GPT-2 124M, 20 tokens from a prefix of 10, compared with other runtimes and memory bandwidth."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from streamcap.bench.baselines import GreedyLoop, baselines
from streamcap.bench.machine import BandwidthProbe, launch_seconds, quiet
from streamcap.bench.onnx_graph import Step
from streamcap.bench.timing import Timing, interleaved, ratio
from streamcap.captioner.checkpoints.decoder import load_gpt2
from streamcap.captioner.decoding.batch import ContinuousBatch, StopCriteria
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.decoding.sampling import GreedySampler
from streamcap.captioner.kernels.int8_torch import Int8Linear, quantize
from streamcap.captioner.kernels.packed import PackedLinear
from streamcap.captioner.kernels.precision import DTYPES, convert
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.prompt import Prompt

PREFIX = 10
TOKENS = 20
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
Decode = Callable[[Tensor], list[list[int]]]
"""Prefixes (B, P, width) → each caption's tokens."""
NEVER = -1
"""A stop token that never occurs: every caption has `TOKENS` tokens."""


@dataclass(frozen=True, slots=True)
class Row:
    """One contender at one batch size."""

    name: str
    frames: int
    timing: Timing
    to_transformers: float
    """Median of its time / transformers' time over the rounds (dynamic cache, the device's usual precision)."""
    to_floor: float | None
    same_tokens: bool | None
    """Whether the tokens equal those of transformers."""

    def to_json(self) -> dict[str, Any]:
        return {
            "contender": self.name,
            "frames": self.frames,
            "median_ms": round(1000 * self.timing.median, 3),
            "best_ms": round(1000 * self.timing.best, 3),
            "rounds_ms": self.timing.rounds_ms,
            "warm_up_ms": round(1000 * self.timing.warm_up, 1),
            "captions_per_second": round(self.frames / self.timing.median, 2),
            "to_transformers": round(self.to_transformers, 3),
            "to_floor": None if self.to_floor is None else round(self.to_floor, 3),
            "same_tokens": self.same_tokens,
        }


def weight_bytes(gpt2: GPT2, precision: str) -> int:
    """Bytes of weights read for one token: all layers and the head; for int8, also scales and biases in float32."""
    linears = [module for module in gpt2.modules() if isinstance(module, nn.Linear | Int8Linear | PackedLinear)]
    weights = sum(module.in_features * module.out_features for module in linears)
    outputs = sum(module.out_features for module in linears)
    return weights * _BYTES[precision] + (8 if precision == "int8" else 0) * outputs


def random_gpt2(seed: int = 0) -> Any:
    """transformers' GPT-2 124M with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    quiet()
    torch.manual_seed(seed)
    model: Any = GPT2LMHeadModel(GPT2Config())
    return model.eval()


def ours(theirs: Any, precision: str, device: torch.device) -> GPT2:
    """streamcap's decoder with the weights of transformers' model."""
    state = {name: tensor.detach().clone() for name, tensor in theirs.state_dict().items()}
    return convert(load_gpt2(state, theirs.config.to_dict(), "random weights", prefix=""), precision, device)


def without_kernels(theirs: Any) -> GPT2:
    """streamcap's decoder in int8 on torch alone, as on a machine without a C compiler."""
    state = {name: tensor.detach().clone() for name, tensor in theirs.state_dict().items()}
    gpt2 = load_gpt2(state, theirs.config.to_dict(), "random weights", prefix="")
    quantize(gpt2)
    gpt2.compile()
    return gpt2


def generate(model: Any, prefixes: Tensor, **more: Any) -> list[list[int]]:
    """transformers' greedy search."""
    # No end-of-text token, so that every caption has all its tokens.
    model.generation_config.eos_token_id = None
    mask = torch.ones(prefixes.shape[:2], dtype=torch.long, device=prefixes.device)
    out = model.generate(
        inputs_embeds=prefixes,
        attention_mask=mask,
        max_new_tokens=TOKENS,
        eos_token_id=None,
        do_sample=False,
        pad_token_id=0,
        **more,
    )
    rows: list[list[int]] = out.tolist()
    return rows


@torch.inference_mode()
def without_cache(model: Any, prefixes: Tensor) -> list[list[int]]:
    """The loop of the original scripts: every token runs the full sequence again."""
    embeddings = prefixes
    tokens: list[Tensor] = []
    for _ in range(TOKENS):
        tokens.append(model(inputs_embeds=embeddings, use_cache=False).logits[:, -1].argmax(-1))
        embeddings = torch.cat((embeddings, model.transformer.wte(tokens[-1]).unsqueeze(1)), dim=1)
    rows: list[list[int]] = torch.stack(tokens, dim=1).tolist()
    return rows


def decode(gpt2: GPT2, prefixes: Tensor) -> list[list[int]]:
    """`ContinuousBatch` on these prefixes."""
    stop_criteria = StopCriteria(TOKENS, frozenset({NEVER}))
    batch: ContinuousBatch[int] = ContinuousBatch(gpt2, GreedySampler(), stop_criteria, max_rows=len(prefixes))
    for number, prefix in enumerate(prefixes):
        batch.add(number, Prompt(prefix))
    finished: dict[int, list[int]] = {}
    while batch.active:
        finished |= {row.key: row.tokens for row in batch.step()}
    return [finished[number] for number in range(len(prefixes))]


class Decoder:
    """A `CudaGraphBatch` that is reused from call to call, as in the captioner."""

    def __init__(self, gpt2: GPT2, frames: int) -> None:
        self._batch: CudaGraphBatch[int] = CudaGraphBatch(
            gpt2, StopCriteria(TOKENS, frozenset({NEVER})), max_rows=frames
        )

    def __call__(self, prefixes: Tensor) -> list[list[int]]:
        for number, prefix in enumerate(prefixes):
            self._batch.add(number, Prompt(prefix))
        finished: dict[int, list[int]] = {}
        while self._batch.active:
            finished |= {row.key: row.tokens for row in self._batch.step()}
        return [finished[number] for number in range(len(prefixes))]


def parts(gpt2: GPT2, frames: int, device: torch.device, rounds: int) -> dict[str, float]:
    """Milliseconds of a caption's parts: the prefill, one step's layers, the head and the sampling."""
    cache = gpt2.new_cache(rows=frames, positions=PREFIX + TOKENS)
    prefixes = torch.randn(frames, PREFIX, gpt2.config.n_embd, device=device)
    tokens = torch.zeros(frames, dtype=torch.long, device=device)
    kept: dict[str, Tensor] = {}

    def prefill() -> None:
        cache.lengths = []
        kept["hidden"] = gpt2.prefill(prefixes, [PREFIX] * frames, cache)[0]

    def head() -> None:
        kept["logits"] = gpt2.logits(kept["hidden"])

    def step() -> None:
        cache.lengths = [PREFIX] * frames
        gpt2.step(tokens, cache)

    def select() -> None:
        GreedySampler().sample(kept["logits"], [None] * frames)

    with torch.inference_mode():
        timings = interleaved({"prefill": prefill, "head": head, "step": step, "select": select}, device, rounds=rounds)
    return {name: round(1000 * timing.median, 3) for name, timing in timings.items()}


def measure_decode(
    device: torch.device,
    *,
    frames: Iterable[int] = (1, 4),
    precisions: Iterable[str],
    rounds: int = 7,
    leave_out: Iterable[str] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """All contenders, interleaved: rows, floors and parts, as JSON.

    onnxruntime and OpenVINO are measured on a CPU, if installed; `baselines.left_out` has the reason otherwise, and
    `baselines.other_tokens_in_fp32` lists those whose tokens differ from transformers'.

    leave_out: prefixes of contender names; `transformers fp32` (on a GPU `fp16`) is always measured.
    """
    omitted = tuple(leave_out)
    precisions = list(precisions)
    base = "fp32" if device.type == "cpu" else "fp16"
    model = random_gpt2()
    decoders = {precision: ours(model, precision, device) for precision in precisions}
    others: dict[str, Decode] = {}
    if any(isinstance(module, PackedLinear) for gpt2 in decoders.values() for module in gpt2.modules()):
        others["streamcap, no kernels int8"] = partial(decode, without_kernels(model))
    theirs = copy.deepcopy(model).to(device, DTYPES[base])
    probes = {name: BandwidthProbe(weight_bytes(gpt2, name), device) for name, gpt2 in decoders.items()}
    rows: list[Row] = []
    detail: dict[str, Any] = {}
    torch.manual_seed(1)
    with baselines(lambda: Step(model), device, precisions, omitted) as found:
        others |= {name: GreedyLoop(session, model, TOKENS) for name, session in found.sessions.items()}
        for count in frames:
            prefixes = 0.1 * torch.randn(count, PREFIX, model.config.n_embd)
            tokens: dict[str, list[list[int]]] = {}
            contenders = _contenders(theirs, decoders, others, prefixes.to(device, theirs.dtype), tokens)
            contenders = {
                name: call
                for name, call in contenders.items()
                if name == f"transformers {base}" or not name.startswith(omitted)
            }
            for name, probe in probes.items():
                contenders[f"floor {name}"] = _reading(probe)
            timings = interleaved(contenders, device, rounds=rounds, clock=clock)
            rows += _rows(count, timings, tokens, base)
            detail[str(count)] = {name: parts(gpt2, count, device, rounds) for name, gpt2 in decoders.items()}
    best = {row.name: row.timing.best for row in rows}
    return {
        "question": f"decoding {TOKENS} tokens from a prefix of {PREFIX} with GPT-2 124M, greedy",
        "rows": [row.to_json() for row in rows],
        "baselines": {
            "threads": torch.get_num_threads(),
            "left_out": found.left_out,
            "other_tokens_in_fp32": [
                f"{row.name}, {row.frames} frames"
                for row in rows
                if row.name in found.sessions and row.name.endswith("fp32") and not row.same_tokens
            ],
        },
        "bytes_per_token": {name: probe.size for name, probe in probes.items()},
        "bandwidth_gb_s": {
            name: round(TOKENS * probe.size / best[f"floor {name}"] / 1e9, 2) for name, probe in probes.items()
        },
        "launch_us": round(1e6 * launch_seconds(device), 2),
        "parts_ms": detail,
    }


def _rows(count: int, timings: dict[str, Timing], tokens: dict[str, list[list[int]]], base: str) -> list[Row]:
    """The rows of batch size `count`, compared with transformers and with the floor of the contender's precision."""
    usual = f"transformers {base}"
    rows = []
    for name, timing in timings.items():
        floor = timings.get(f"floor {name.rpartition(' ')[2]}") or timings.get(f"floor {base}")
        rows.append(
            Row(
                name,
                count,
                timing,
                ratio(timing, timings[usual]),
                None if floor is None or name.startswith("floor") else ratio(timing, floor),
                tokens[name] == tokens[usual] if name in tokens else None,
            )
        )
    return rows


def _reading(probe: BandwidthProbe) -> Callable[[], None]:
    def read() -> None:
        for _ in range(TOKENS):
            probe()

    return read


def _contenders(
    theirs: Any,
    decoders: dict[str, GPT2],
    others: dict[str, Decode],
    prefixes: Tensor,
    tokens: dict[str, list[list[int]]],
) -> dict[str, Callable[[], object]]:
    base = "fp32" if theirs.dtype == torch.float32 else "fp16"
    calls: dict[str, Callable[[], list[list[int]]]] = {
        f"transformers {base}": lambda: generate(theirs, prefixes),
        f"transformers, static cache {base}": lambda: generate(
            theirs, prefixes, cache_implementation="static", disable_compile=True
        ),
        f"loop without cache {base}": lambda: without_cache(theirs, prefixes),
    }
    for precision, gpt2 in decoders.items():
        if gpt2.device.type == "cpu":
            calls[f"streamcap {precision}"] = partial(decode, gpt2, prefixes)
        else:
            calls[f"streamcap, each kernel launched {precision}"] = partial(decode, gpt2, prefixes)
            calls[f"streamcap {precision}"] = partial(Decoder(gpt2, len(prefixes)), prefixes)

    for name, call in others.items():
        calls[name] = partial(call, prefixes)

    def keeping(name: str, call: Callable[[], list[list[int]]]) -> Callable[[], object]:
        def run() -> None:
            tokens[name] = call()

        return run

    return {name: keeping(name, call) for name, call in calls.items()}


def table(result: dict[str, Any]) -> str:
    """The rows as text, one line each."""
    lines = [f"{'contender':<34}{'frames':>7}{'median ms':>11}{'best ms':>9}{'× transf.':>11}{'× floor':>9}  tokens"]
    for row in result["rows"]:
        floor = "" if row["to_floor"] is None else f"{row['to_floor']:.2f}"
        same = {None: "", True: "same", False: "differ"}[row["same_tokens"]]
        lines.append(
            f"{row['contender']:<34}{row['frames']:>7}{row['median_ms']:>11.1f}{row['best_ms']:>9.1f}"
            f"{row['to_transformers']:>11.2f}{floor:>9}  {same}"
        )
    for name, size in result["bytes_per_token"].items():
        lines.append(f"{name}: {size / 1e6:.0f} MB a token, read at {result['bandwidth_gb_s'][name]:.1f} GB/s")
    for frames, by_precision in result["parts_ms"].items():
        for name, milliseconds in by_precision.items():
            spent = ", ".join(f"{part} {taken:.2f}" for part, taken in milliseconds.items())
            lines.append(f"parts in ms, {name}, {frames} frame(s): {spent}")
    lines += [f"{name} is left out: {reason}" for name, reason in result["baselines"]["left_out"].items()]
    return "\n".join(lines)
