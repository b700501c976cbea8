"""What a mask costs for one sampled 720p frame. Goal: at most 0.1 ms. docs/sources.md has what was tried.

python -m benchmarks.masks
"""

from __future__ import annotations

import io
import statistics
import time

import av
import numpy as np
import torch

from benchmarks.results import RESULTS, write_result
from streamcap.bench.machine import describe_machine
from streamcap.media.frame_mask import FrameMask
from streamcap.media.mask import Polygon

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


def measure(polygon: Polygon) -> dict[str, dict[str, float]]:
    """Milliseconds of CPU a frame: the copy that keeps the decoder's own frame as it is, and the gray pixels."""
    copying: list[float] = []
    masking: list[float] = []
    with av.open(film(), "r") as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "SLICE", 1  # as a camera is decoded
        mask = FrameMask((polygon,))
        for number, frame in enumerate(container.decode(stream)):
            started = time.thread_time()
            frame.make_writable()
            copied = time.thread_time()
            mask.apply(frame)  # no copy any more
            if number:  # the first finds the pixels, once for each size
                copying.append(1e3 * (copied - started))
                masking.append(1e3 * (time.thread_time() - copied))
    both = [copy + fill for copy, fill in zip(copying, masking, strict=True)]
    parts = {"copy": copying, "gray": masking, "both": both}
    return {name: {"median": statistics.median(part), "min": min(part)} for name, part in parts.items()}


def main() -> None:
    result = {name: measure(polygon) for name, polygon in MASKS.items()}
    for name, parts in result.items():
        shown = ", ".join(f"{part} {times['median']:.3f} (min {times['min']:.3f})" for part, times in parts.items())
        print(f"{name:<30} {shown}")
    content = {"milliseconds": result, "machine": describe_machine(torch.device("cpu"))}
    write_result(RESULTS / "masks.json", content)


if __name__ == "__main__":
    main()
