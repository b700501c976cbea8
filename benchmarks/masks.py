"""What a mask costs for one sampled 720p frame. Goal: at most 0.1 ms.

python -m benchmarks.masks
"""

from __future__ import annotations

import io
import json
import statistics
import time
from pathlib import Path

import av
import numpy as np
import torch

from streamcap.bench.machine import describe_machine
from streamcap.media.frame_mask import FrameMask
from streamcap.media.mask import Polygon

RESULTS = Path(__file__).parent / "results"
WIDTH, HEIGHT, FRAMES = 1280, 720, 120
MASKS: dict[str, Polygon] = {
    "triangle, 6 % of the picture": ((0, 0), (0.3, 0), (0.3, 0.4)),
    "rectangle, 12 %": ((0, 0), (0.3, 0), (0.3, 0.4), (0, 0.4)),
    "triangle, 50 %": ((0, 0), (1, 0), (0.5, 1)),
}


def film() -> io.BytesIO:
    """H.264 of a moving picture, as a camera sends it."""
    out = io.BytesIO()
    picture = (
        np.random.default_rng(0).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    )
    with av.open(out, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(picture, 4 * number, 1), format="rgb24")))
        container.mux(stream.encode(None))
    out.seek(0)
    return out


def measure(polygon: Polygon) -> dict[str, float]:
    """Milliseconds a frame: all of it, and the copy that keeps the decoder's own frame as it is."""
    masking: list[float] = []
    copying: list[float] = []
    with av.open(film(), "r") as container:
        for number, frame in enumerate(container.decode(video=0)):
            if not number:
                mask = FrameMask((polygon,))
                mask.apply(frame)  # finds the pixels, once for each size
                continue
            started = time.perf_counter()
            if number % 2:
                mask.apply(frame)
            else:
                frame.make_writable()
            (masking if number % 2 else copying).append(1e3 * (time.perf_counter() - started))
    return {"median": statistics.median(masking), "least": min(masking), "copy, median": statistics.median(copying)}


def main() -> None:
    result = {name: measure(polygon) for name, polygon in MASKS.items()}
    print("\n".join(f"{name:<30} {times}" for name, times in result.items()))
    RESULTS.mkdir(exist_ok=True)
    content = {"milliseconds": result, "machine": describe_machine(torch.device("cpu"))}
    (RESULTS / "masks.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
