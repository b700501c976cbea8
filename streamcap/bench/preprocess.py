"""Preprocessing a 720p frame to 224 × 224, compared with transformers' CLIPImageProcessor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from streamcap.bench.machine import quiet
from streamcap.bench.timing import interleaved
from streamcap.captioner.models.vision import CLIP_MEAN, CLIP_STD
from streamcap.captioner.preprocess import Pixels, fit_image, fit_images
from streamcap.image_spec import ImageSpec


def measure_preprocess(*, rounds: int = 30) -> dict[str, Any]:
    """Milliseconds of each contender, as JSON. The live path needs PyAV and is left out without it."""
    frame = np.random.default_rng(0).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    contenders: dict[str, Callable[[], object]] = {}
    processor = _processor()
    if processor is not None:
        contenders["transformers CLIPImageProcessor"] = lambda: processor(images=frame, return_tensors="np")
    for interpolation in ("bicubic", "bilinear"):
        spec = ImageSpec(224, 224, "crop", interpolation, CLIP_MEAN, CLIP_STD)
        contenders[f"streamcap, array, {interpolation}"] = lambda spec=spec: fit_images([frame], spec)  # type: ignore[misc]
        live = _live(frame, spec)
        if live is not None:
            contenders[f"streamcap, decoded frame, {interpolation}"] = live
    timings = interleaved(contenders, torch.device("cpu"), rounds=rounds)
    rows = [
        {"contender": name, "median_ms": round(1000 * timing.median, 3), "best_ms": round(1000 * timing.best, 3)}
        for name, timing in timings.items()
    ]
    return {"question": "a 720p frame to 224 × 224", "rows": rows}


def _processor() -> Any:
    try:
        from transformers import CLIPImageProcessor

        quiet()
        return CLIPImageProcessor()
    except ImportError:
        return None


def _live(frame: np.ndarray[Any, np.dtype[np.uint8]], spec: ImageSpec) -> Callable[[], Pixels] | None:
    """Preprocessing of a decoder's YUV frame, as in the service; None without PyAV."""
    try:
        from av import VideoFrame

        from streamcap.media.convert import Converter
    except ImportError:
        return None
    image = VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
    converter = Converter(spec)
    return lambda: converter.convert(image)


def fitting(frame: np.ndarray[Any, np.dtype[np.uint8]], spec: ImageSpec) -> Callable[[], Pixels]:
    """A call that resizes `frame` to the model's size: from a decoder's YUV frame with PyAV, else from the array."""
    return _live(frame, spec) or (lambda: fit_image(frame, spec))


def table(result: dict[str, Any]) -> str:
    """The rows as text, one line each."""
    lines = [f"{'contender':<40}{'median ms':>11}{'best ms':>9}"]
    lines += [f"{row['contender']:<40}{row['median_ms']:>11.2f}{row['best_ms']:>9.2f}" for row in result["rows"]]
    return "\n".join(lines)
