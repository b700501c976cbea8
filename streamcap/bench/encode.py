"""Encoding 224 × 224 images with CLIP ViT-B/32 (random weights), compared with transformers and other runtimes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamcap.bench.baselines import baselines, encoder
from streamcap.bench.machine import quiet
from streamcap.bench.onnx_graph import Tower
from streamcap.bench.timing import interleaved, ratio
from streamcap.captioner.checkpoints.towers import clip_tower
from streamcap.captioner.decoding.cuda_graphs import GraphedCallable
from streamcap.captioner.kernels.precision import DTYPES, convert
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.vision import Vision


def random_clip(seed: int = 0) -> Any:
    """transformers' CLIP ViT-B/32 vision tower with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    quiet()
    torch.manual_seed(seed)
    model: Any = CLIPVisionModelWithProjection(
        CLIPVisionConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, patch_size=32)
    )
    return model.eval()


def mapping(width: int, gpt2: GPT2, positions: int) -> nn.Module:
    """ClipCap's MLP with random weights: (B, width) → (B, positions × the decoder's width)."""
    outputs = positions * gpt2.config.n_embd
    layers = nn.Sequential(nn.Linear(width, outputs // 2), nn.Tanh(), nn.Linear(outputs // 2, outputs))
    return layers.to(gpt2.device, gpt2.dtype)


def tower(theirs: Any, precision: str, device: torch.device) -> Vision:
    """streamcap's tower with the weights of transformers' model."""
    return convert(float_tower(theirs), precision, device)


def float_tower(theirs: Any) -> Vision:
    """As `tower`, on the CPU in float32, before a conversion."""
    state = {name: tensor.detach().clone() for name, tensor in theirs.state_dict().items()}
    kept = {
        name.removeprefix("vision_model."): tensor for name, tensor in state.items() if name.startswith("vision_model.")
    }
    fields = theirs.config.to_dict()
    projection = state["visual_projection.weight"]
    return clip_tower(kept, fields, "random weights", prefix="", output="projected", projection=projection)


def measure_encode(
    device: torch.device,
    *,
    frames: Iterable[int] = (1, 4),
    precisions: Iterable[str],
    rounds: int = 7,
    leave_out: Iterable[str] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Rows for every batch size, as JSON; `cosine` is the lowest cosine with transformers' embedding.

    onnxruntime and OpenVINO are measured on a CPU, if installed; `baselines.left_out` has the reason otherwise.
    leave_out: prefixes of their contenders' names.
    """
    base = "fp32" if device.type == "cpu" else "fp16"
    precisions = list(precisions)
    model = random_clip()
    towers = {precision: tower(model, precision, device) for precision in precisions}
    rows: list[dict[str, Any]] = []
    with baselines(lambda: Tower(model), device, precisions, leave_out) as found:
        theirs = model.to(device, DTYPES[base])
        for count in frames:
            torch.manual_seed(count)
            pixels = torch.randint(0, 256, (count, 224, 224, 3), dtype=torch.uint8, device=device)
            normalized = next(iter(towers.values())).normalize(pixels).to(theirs.dtype)
            contenders = _contenders(theirs, towers, pixels, normalized)
            contenders |= {name: encoder(session, normalized) for name, session in found.sessions.items()}
            with torch.inference_mode():
                timings = interleaved(contenders, device, rounds=rounds, clock=clock)
                expected = contenders[f"transformers {base}"]().float()
                for name, timing in timings.items():
                    rows.append(
                        {
                            "contender": name,
                            "frames": count,
                            "median_ms": round(1000 * timing.median, 3),
                            "best_ms": round(1000 * timing.best, 3),
                            "rounds_ms": timing.rounds_ms,
                            "to_transformers": round(ratio(timing, timings[f"transformers {base}"]), 3),
                            "cosine": round(float(_cosine(contenders[name](), expected)), 5),
                        }
                    )
    return {
        "question": "encoding 224 × 224 images with CLIP ViT-B/32",
        "rows": rows,
        "baselines": {"threads": torch.get_num_threads(), "left_out": found.left_out},
    }


def _contenders(
    theirs: Any, towers: dict[str, Vision], pixels: Tensor, normalized: Tensor
) -> dict[str, Callable[[], Tensor]]:
    base = "fp32" if theirs.dtype == torch.float32 else "fp16"
    contenders: dict[str, Callable[[], Tensor]] = {f"transformers {base}": partial(_theirs, theirs, normalized)}
    for precision, own in towers.items():
        if pixels.device.type == "cpu":
            contenders[f"streamcap {precision}"] = partial(own.encode, pixels)
        else:
            contenders[f"streamcap, each kernel launched {precision}"] = partial(own.encode, pixels)
            contenders[f"streamcap {precision}"] = _replayed(own, pixels, pixels.device)
    return contenders


def _theirs(model: Any, normalized: Tensor) -> Tensor:
    embeddings: Tensor = model(pixel_values=normalized).image_embeds
    return embeddings


def _replayed(own: Vision, pixels: Tensor, device: torch.device) -> Callable[[], Tensor]:
    with torch.inference_mode():
        replay = GraphedCallable(lambda batch: (own.encode(batch),), [pixels], device)
    return lambda: replay(pixels)[0]


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return F.cosine_similarity(one.float(), other, dim=-1).min()


def table(result: dict[str, Any]) -> str:
    """The rows as text, one line each."""
    lines = [f"{'contender':<38}{'frames':>7}{'median ms':>11}{'best ms':>9}{'× transf.':>11}{'cosine':>10}"]
    lines += [
        f"{row['contender']:<38}{row['frames']:>7}{row['median_ms']:>11.2f}{row['best_ms']:>9.2f}"
        f"{row['to_transformers']:>11.2f}{row['cosine']:>10.5f}"
        for row in result["rows"]
    ]
    lines += [f"{name} is left out: {reason}" for name, reason in result["baselines"]["left_out"].items()]
    return "\n".join(lines)
