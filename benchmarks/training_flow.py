"""Training from clips to a scored captioner: three commands on a small data set of drawn clips in MSR-VTT's format.

    python -m benchmarks.training_flow --folder /tmp/flow [--clips 400] [--epochs 40]

Draws clips, writes them as H.264 with an MSR-VTT json beside them, then runs `streamcap dataset`, `train` and
`evaluate` as a user would. Prints the share of unseen clips whose caption is exactly right, and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from benchmarks.results import write_result
from streamcap.media.scenes import draw, random_scene

KINDS = ("car", "boat", "duck", "bird")
WIDTH, HEIGHT, RATE, FRAMES = 320, 180, 6, 8
SHARES = {"train": 0.7, "validate": 0.15, "test": 0.15}


def write_clips(folder: Path, count: int, seed: int) -> Path:
    """`count` clips under `folder`/clips and their msrvtt.json."""
    rng = np.random.default_rng(seed)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    splits = [split for split, share in SHARES.items() for _ in range(round(share * count))]
    videos, sentences = [], []
    for number, split in enumerate(splits):
        scene, start = random_scene(rng, KINDS), rng.uniform(0, 30)
        name = f"video{number}"
        with av.open(str(folder / "clips" / f"{name}.mp4"), "w") as out:
            stream = out.add_stream("libx264", rate=RATE, options={"crf": "26", "preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.time_base = Fraction(1, RATE)
            for i in range(FRAMES):
                pixels = draw(scene, start + i / RATE, WIDTH, HEIGHT)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            out.mux(stream.encode())
        videos.append({"video_id": name, "split": split})
        sentences.append({"video_id": name, "caption": scene.sentence})
    path = folder / "msrvtt.json"
    path.write_text(json.dumps({"videos": videos, "sentences": sentences}))
    return path


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--mapping", default="video-transformer")
    given = parser.parse_args()
    folder: Path = given.folder
    captions = write_clips(folder, given.clips, seed=5)
    streamcap = [sys.executable, "-m", "streamcap"]
    clips, cache, run, scores = (folder / name for name in ("clips", "cache", "run", "scores"))
    media = ["--media", str(clips)]
    shape = "--preset small --prefix 8 --mapper-layers 2 --mapper-heads 4 --layers 2 --vocabulary 400 --dropout 0.05"
    pace = f"--learning-rate 0.001 --warmup 50 --batch 16 --epochs {given.epochs}"
    encoded = "--format msrvtt --frames 4 --encoder mini --features pooled"
    commands = {
        "dataset": [str(captions), *encoded.split(), *media, "--out", str(cache)],
        "train": [str(cache), "--out", str(run), "--mapping", given.mapping, *shape.split(), *pace.split()],
        "evaluate": [str(run / "best"), "--cache", str(cache), *media, "--beam", "1", "--out", str(scores)],
    }
    seconds = {}
    for name, arguments in commands.items():
        began = time.perf_counter()
        subprocess.run([*streamcap, name, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds[name] = round(time.perf_counter() - began, 1)
    found = json.loads((scores / "scores.json").read_text())
    result = {"clips": given.clips, "mapping": given.mapping, "seconds": seconds, "test": found}
    write_result(folder / "training_flow.json", result)
    print(f"unseen clips exact: {found['exact']:.3f}   CIDEr {found['cider']:.2f}   seconds {seconds}")


if __name__ == "__main__":
    main()
