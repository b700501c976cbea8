"""One 720p frame from pixels to caption: the time of preprocessing, encoding and decoding."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamcap.bench import decode, encode
from streamcap.bench.preprocess import fitting
from streamcap.bench.timing import synchronize
from streamcap.captioner import Captioner, load_captioner
from streamcap.captioner.registry import mini_directory
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec

Pixels = npt.NDArray[np.uint8]
STAGES = ("preprocess", "encode", "decode")
BIG = "ViT-B/32 + GPT-2 124M"
_UNTIMED = 3


def frame(height: int = 720, width: int = 1280) -> Pixels:
    """A drawn image, (height, width, 3): sky, ground, a red ball and a blue box."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    image = np.empty((height, width, 3), np.float32)
    image[:] = np.where((rows < 0.6 * height)[..., None], (150, 190, 235), (90, 140, 70))
    ball = (rows - 0.55 * height) ** 2 + (columns - 0.3 * width) ** 2 < (0.15 * height) ** 2
    image[ball] = (210, 40, 40)
    image[int(0.5 * height) : int(0.75 * height), int(0.6 * width) : int(0.75 * width)] = (40, 60, 200)
    image += 8 * np.sin(rows / 7)[..., None] * np.cos(columns / 11)[..., None]
    return image.clip(0, 255).astype(np.uint8)


def measure_end_to_end(
    device: torch.device, *, precisions: Iterable[str], rounds: int = 30, big: bool = True
) -> dict[str, Any]:
    """Medians of each stage and of the total, in milliseconds, as JSON; one frame at a time.

    `mini` in every precision; with `big`, also random weights of the usual size, with an MLP mapping to a prefix of 10
    positions, and 20 tokens.
    """
    image = frame()
    rows = []
    for precision in precisions:
        mini = _mini(device, precision)
        if mini is not None:
            rows.append({"model": "mini", "precision": precision} | _run(_stages(mini, image), device, rounds))
        if big:
            stages = _big(device, precision, image)
            rows.append({"model": BIG, "precision": precision} | _run(stages, device, max(3, rounds // 3)))
    return {"question": "one 720p frame, from the decoder's image to the caption's last token", "rows": rows}


Stages = tuple[Callable[[], Pixels], Callable[[Pixels], Tensor], Callable[[Tensor], int]]


def _mini(device: torch.device, precision: str) -> Captioner | None:
    if not mini_directory().is_dir():
        return None
    try:
        return load_captioner("mini", device=str(device), precision=precision)
    except InputError:
        return None


def _stages(captioner: Captioner, image: Pixels) -> Stages:
    return (
        fitting(image, captioner.image_spec),
        lambda pixels: captioner.encode(pixels[None]),
        lambda embedding: len(captioner.decode(embedding)[0].tokens),
    )


def _big(device: torch.device, precision: str, image: Pixels) -> Stages:
    tower = encode.tower(encode.random_clip(), precision, device)
    gpt2 = decode.ours(decode.random_gpt2(), precision, device)
    mapping = encode.mapping(tower.width, gpt2, decode.PREFIX)
    batch = decode.Decoder(gpt2, 1) if device.type == "cuda" else None

    @torch.inference_mode()
    def encode_prefix(pixels: Pixels) -> Tensor:
        prefix: Tensor = mapping(tower.encode(torch.from_numpy(pixels[None])))
        return prefix.view(1, decode.PREFIX, -1)

    def count_tokens(prefix: Tensor) -> int:
        return len((batch(prefix) if batch is not None else decode.decode(gpt2, prefix))[0])

    spec: ImageSpec = tower.image_spec
    return fitting(image, spec), encode_prefix, count_tokens


def _run(stages: Stages, device: torch.device, rounds: int) -> dict[str, Any]:
    preprocess_stage, encode_stage, decode_stage = stages
    taken: list[tuple[float, float, float]] = []
    tokens = 0
    for _ in range(_UNTIMED + rounds):
        began = time.perf_counter()
        pixels = preprocess_stage()
        preprocessed = time.perf_counter()
        embedding = encode_stage(pixels)
        synchronize(device)
        encoded = time.perf_counter()
        tokens = decode_stage(embedding)
        taken.append((preprocessed - began, encoded - preprocessed, time.perf_counter() - encoded))
    taken = taken[_UNTIMED:]
    medians = [1000 * statistics.median(each) for each in zip(*taken, strict=True)]
    totals = sorted(1000 * math.fsum(each) for each in taken)
    return {
        **{f"{name}_ms": round(median, 3) for name, median in zip(STAGES, medians, strict=True)},
        "total_ms": round(statistics.median(totals), 3),
        "best_ms": round(totals[0], 3),
        "tokens": tokens,
    }


def table(result: dict[str, Any]) -> str:
    """The rows as text, one line each; shares of the sum of the medians."""
    lines = [f"{'model':<24}{'precision':>10}{'total ms':>10}{'best ms':>9}  {'of which':<40}tokens"]
    for row in result["rows"]:
        total = sum(row[f"{name}_ms"] for name in STAGES)
        shares = ", ".join(f"{name} {row[f'{name}_ms']:.1f} ({row[f'{name}_ms'] / total:.0%})" for name in STAGES)
        lines.append(
            f"{row['model']:<24}{row['precision']:>10}{row['total_ms']:>10.1f}{row['best_ms']:>9.1f}  {shares}  "
            f"{row['tokens']}"
        )
    return "\n".join(lines)
