"""What teachers see on Flickr8k's training images, one line of JSON an image, as the pool's `teachers.jsonl.gz` has it:

    python -m streamcap.training.mini.grounding.data.label FLICKR8K TEACHERS OUT.jsonl

TEACHERS is a folder with `teachers.py`, whose `Teachers()` has the detector `yolox` and the classifier `imagenet`. The
same command goes on where it was stopped. Small squashed images cost recall: captions by people name what is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from streamcap.errors import InputError, StreamcapError
from streamcap.image_spec import ImageSpec
from streamcap.training.data.clips import UnreadableError, read_image
from streamcap.training.data.corpus import MediaFolder, read_flickr
from streamcap.training.evaluation.object_truth import read_json_lines
from streamcap.training.mini.steps import run_command

log = logging.getLogger(__name__)

LARGEST = 15
"""ImageNet classes that are kept of an image, at most."""
LEAST = 0.003
IMAGE = ImageSpec(192, 192, "squash", "bicubic")

Pixels = npt.NDArray[np.uint8]


class Labeler(Protocol):
    """What `Teachers()` of TEACHERS/teachers.py must have."""

    yolox: Callable[[Pixels], Iterable[Any]]
    """Detections with `name`, `score` and `box`."""
    imagenet: Callable[[Pixels], npt.NDArray[np.float32]] | None
    """1000 probabilities; None where that teacher is not installed."""


def open_teachers(folder: Path) -> Labeler:
    """Raises InputError, one line, where the folder's teachers or what they need are missing."""
    file = folder / "teachers.py"
    spec = importlib.util.spec_from_file_location("teachers", file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise InputError(f"{file}: no such file; it runs the teachers")
    module = importlib.util.module_from_spec(spec)
    try:
        sys.modules["teachers"] = module
        spec.loader.exec_module(module)
        teachers: Labeler = module.Teachers()
    except ImportError as error:
        raise InputError(f"{file}: needs a package that is not installed ({error})") from None
    return teachers


def label_image(name: str, pixels: Pixels, teachers: Labeler) -> dict[str, Any]:
    """One line of the file."""
    line: dict[str, Any] = {"image": name, "yolox": []}
    for one in teachers.yolox(pixels):
        line["yolox"].append([one.name, round(float(one.score), 3), *(round(float(side), 3) for side in one.box)])
    if teachers.imagenet is not None:
        shares = teachers.imagenet(pixels)
        best = np.argsort(-shares)[:LARGEST]
        line["imagenet"] = [[int(k), round(float(shares[k]), 4)] for k in best if shares[k] > LEAST]
    return line


def label(flickr: Path, teachers: Labeler, out: Path) -> int:
    """Append the lines that `out` lacks; how many were added."""
    tar = flickr / "images-192.tar"
    media = MediaFolder(tar if tar.is_file() else flickr / "images")
    items = read_flickr(flickr / "results.csv", media, {"train": flickr / "train.txt"}).splits["train"]
    done = {line["image"] for line in read_json_lines(out)} if out.is_file() else set()
    added = 0
    try:
        with out.open("a", encoding="utf-8") as stream:
            for item in items:
                if item.name in done:
                    continue
                try:
                    pixels = read_image(media.read(item.name), IMAGE)
                except (UnreadableError, OSError) as error:
                    log.warning("%s: broken (%s), left out", item.name, error)
                    continue
                stream.write(json.dumps(label_image(item.name, pixels, teachers)) + "\n")
                stream.flush()
                added += 1
    except OSError as error:
        raise StreamcapError(f"{out}: cannot be written ({error.strerror or error})") from None
    return added


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 2 for wrong use, with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m streamcap.training.mini.grounding.data.label", description=__doc__)
    parser.add_argument("flickr", type=Path, help="Flickr8k's folder")
    parser.add_argument("teachers", type=Path, help="folder of teachers.py")
    parser.add_argument("out", type=Path, help="the file of labels")

    def run(given: argparse.Namespace) -> None:
        log.info("%d images labeled", label(given.flickr, open_teachers(given.teachers), given.out))

    return run_command(parser, arguments, run)


if __name__ == "__main__":
    sys.exit(main())
