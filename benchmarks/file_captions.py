"""Time for 100 captions of a video file, compared with the original scripts.

    python -m benchmarks.file_captions CLIP.mp4 [-n 100] [--old-frames 4] [--tokens 20]

The original method (VideoCaptionerWithClip's video script), for each frame: seek and decode, write a JPEG and read it
back, load the model, preprocess with transformers' processor, and run GPT-2 over the full sentence for every token.
Both methods use the same random weights: CLIP ViT-B/32 and GPT-2 124M in ClipCap's layout. The original method's frames
are independent, so a few of them are measured (some before and some after streamcap) and extrapolated, with and without
loading the model. Goal: at most 1/10 of the original time.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from benchmarks.parity import BASE, SMALL, STOP, Built, Sizes, build_clipcap
from benchmarks.results import RESULTS, write_result
from streamcap import load_captioner
from streamcap.atomic import atomic_write
from streamcap.bench.machine import describe_machine
from streamcap.captioner import SearchOptions
from streamcap.captions.formats import srt
from streamcap.media.files.image_file import upright
from streamcap.media.files.video_file import VideoFile
from streamcap.offline.file_captioner import FileCaptioner, select_frames, to_cues

GOAL = 0.1
PREFIX = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    parser.add_argument("-n", "--frames", type=int, default=100)
    parser.add_argument("--old-frames", type=int, default=4, help="frames by the old way; at least 2")
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the benchmark itself")
    parser.add_argument("--json", type=Path, default=RESULTS / "file_captions.json")
    arguments = parser.parse_args()
    quiet: Any = transformers_logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    sizes = SMALL if arguments.small else BASE
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        built = build_clipcap(sizes, Path(directory))
        result = measure(arguments, built, sizes, Path(directory))
    result["machine"] = describe_machine(torch.device("cpu"))
    show(result)
    if not arguments.small:
        write_result(arguments.json, result)


def measure(arguments: argparse.Namespace, built: Built, sizes: Sizes, directory: Path) -> dict[str, Any]:
    seconds = old_times(arguments.clip, max(2, arguments.old_frames))
    # What transformers sets up once in a process is nobody's cost.
    old_way(arguments.clip, seconds[0], built, sizes, 1, directory)
    half = len(seconds) // 2
    parts = [old_way(arguments.clip, at, built, sizes, arguments.tokens, directory) for at in seconds[:half]]
    new = new_way(arguments.clip, arguments.frames, built, arguments.tokens, directory)
    parts += [old_way(arguments.clip, at, built, sizes, arguments.tokens, directory) for at in seconds[half:]]
    means = {part: sum(frame[part] for frame in parts) / len(parts) for part in parts[0]}
    old = arguments.frames * sum(means.values())
    old_loaded_once = old - (arguments.frames - 1) * means["load"]
    return {
        "question": "captions of a video file against the way of the old scripts",
        "model": "ClipCap layout, random weights: CLIP ViT-B/32 + GPT-2 124M",
        "clip": arguments.clip.name,
        "frames": arguments.frames,
        "tokens": arguments.tokens,
        "old_frames_measured": len(parts),
        "old_s_per_frame": {part: round(value, 3) for part, value in means.items()},
        "old_s": round(old, 1),
        "old_loaded_once_s": round(old_loaded_once, 1),
        "new_s": {part: round(value, 2) for part, value in new.items()},
        "ratio": round(new["total"] / old, 4),
        "ratio_to_loaded_once": round(new["total"] / old_loaded_once, 4),
        "goal": GOAL,
        # Above the number of cores, the times are those of a machine with other work to do: compare the ratios.
        "load_average": round(os.getloadavg()[0], 1),
    }


def new_way(clip: Path, frames: int, built: Built, tokens: int, directory: Path) -> dict[str, float]:
    """What `streamcap caption CLIP -n FRAMES -o FILE.srt` does, loading included. Seconds."""
    began = time.perf_counter()
    captioner = load_captioner(built.path, device="cpu", precision="fp32", vision=built.vision)
    files = FileCaptioner(captioner, SearchOptions(max_tokens=tokens))
    loaded = time.perf_counter()
    with VideoFile(clip) as video:
        windows = select_frames(video.index, None, frames=frames)
        captions = [(at.seconds, result.text) for at, result in files.video(video, windows)]
        atomic_write(directory / "new.srt", srt.render(to_cues(captions, video.index.seconds(video.index.end))))
    ended = time.perf_counter()
    if len(captions) != frames:
        raise SystemExit(f"{clip} has only {len(captions)} frames: give a longer clip or a smaller -n")
    return {"load": loaded - began, "caption": ended - loaded, "total": ended - began}


def old_times(clip: Path, count: int) -> list[float]:
    """Times of the frames to measure, spread over the clip: seeking costs more far from a keyframe."""
    with VideoFile(clip) as video:
        return [video.index.seconds(video.index.pts[ordinal]) for ordinal in video.index.spread(count)]


def old_way(clip: Path, seconds: float, built: Built, sizes: Sizes, tokens: int, directory: Path) -> dict[str, float]:
    """One frame, and what each part of it took, in seconds."""
    marks = [time.perf_counter()]
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        container.seek(round(seconds * av.time_base))
        frame = next(p for p in container.decode(stream) if p.time is not None and p.time >= seconds - 1e-3)
        upright(frame).save(directory / "frame.jpg", quality=95)
    marks.append(time.perf_counter())
    gpt, mapping, tower, processor = old_load(built, sizes)
    marks.append(time.perf_counter())
    with Image.open(directory / "frame.jpg") as image:
        pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    prefix = mapping(tower(pixel_values=pixels).image_embeds).view(1, PREFIX, -1)
    marks.append(time.perf_counter())
    embeddings = prefix
    for _ in range(tokens):
        token = gpt(inputs_embeds=embeddings, use_cache=False).logits[:, -1].argmax(-1)
        if int(token) == STOP:
            break
        embeddings = torch.cat((embeddings, gpt.transformer.wte(token)[None]), 1)
    marks.append(time.perf_counter())
    parts = ("frame and JPEG", "load", "encode", "decode")
    return {part: after - before for part, before, after in zip(parts, marks, marks[1:], strict=False)}


def old_load(built: Built, sizes: Sizes) -> tuple[Any, nn.Module, Any, Any]:
    """GPT-2, mapping, vision tower and processor as the original code makes them: built, then filled."""
    config = GPT2Config(
        vocab_size=sizes.vocabulary, n_embd=sizes.gpt_width, n_layer=sizes.gpt_layers, n_head=sizes.gpt_heads
    )
    gpt: Any = GPT2LMHeadModel(config)
    outputs = PREFIX * sizes.gpt_width
    mapping = nn.Sequential(nn.Linear(sizes.projection, outputs // 2), nn.Tanh(), nn.Linear(outputs // 2, outputs))
    weights = torch.load(built.path, map_location="cpu", weights_only=True)
    gpt.load_state_dict({key[4:]: value for key, value in weights.items() if key.startswith("gpt.")}, strict=False)
    mapping.load_state_dict(
        {
            key.removeprefix("clip_project.model."): value
            for key, value in weights.items()
            if key.startswith("clip_project.")
        }
    )
    tower: Any = CLIPVisionModelWithProjection.from_pretrained(str(built.vision))
    processor: Any = CLIPImageProcessorPil()
    return gpt.eval(), mapping.eval(), tower.eval(), processor


def show(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['frames']} captions of {result['clip']}, {result['model']}")
    for column in ("way", "seconds", "ratio", "limit"):
        table.add_column(column, justify="left" if column == "way" else "right")
    per_frame = ", ".join(f"{part} {value:.2f}" for part, value in result["old_s_per_frame"].items())
    table.add_row(f"old scripts, a frame: {per_frame}", f"{result['old_s']:.1f}", "1", "")
    table.add_row("old scripts, loading once", f"{result['old_loaded_once_s']:.1f}", "", "")
    new = result["new_s"]
    table.add_row(
        f"streamcap, of which loading {new['load']:.1f}", f"{new['total']:.1f}", f"{result['ratio']:.3f}", f"{GOAL}"
    )
    table.add_row("the same, against loading once", "", f"{result['ratio_to_loaded_once']:.3f}", "none")
    Console().print(table)


if __name__ == "__main__":
    main()
