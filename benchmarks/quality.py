"""Caption quality in int8 compared with fp32: the embedded captioner on the same images.

    python -m benchmarks.quality IMAGES.tar --split-file dev.txt --references results.csv

IMAGES.tar contains the images, `--split-file` names those to caption, and `--references` is Flickr30k's pipe-separated
results.csv. Goal: BLEU-4 and CIDEr drop by less than 1 %. Needs the `train` extra for the scores.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.results import RESULTS, write_result
from streamcap.bench.machine import describe_machine
from streamcap.captioner import Result, load_captioner
from streamcap.captioner.kernels.int8_torch import int8_saturates
from streamcap.training.data.caption_files import read_captions
from streamcap.training.evaluation.scores import score

BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--split-file", type=Path, required=True)
    parser.add_argument("--references", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    arguments = parser.parse_args()
    truth = read_captions(arguments.references).captions
    names = [name for name in arguments.split_file.read_text().split() if name in truth]
    images = []
    with tarfile.open(arguments.images) as archive:
        members = {Path(member.name).name: member for member in archive.getmembers()}
        for name in names:
            file = archive.extractfile(members[name])
            assert file is not None
            images.append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
    captions: dict[str, list[str]] = {}
    scores: dict[str, dict[str, float]] = {}
    for precision in ("fp32", "int8"):
        captioner = load_captioner(arguments.model, device="cpu", precision=precision)
        found: list[Result] = []
        for start in range(0, len(images), BATCH):
            found += captioner.caption(images[start : start + BATCH])
        captions[precision] = [result.text for result in found]
        scores[precision] = score(captions[precision], [truth[name] for name in names]).summary()
        print(precision, scores[precision])
    same = float(np.mean([one == other for one, other in zip(captions["fp32"], captions["int8"], strict=True)]))
    change = {key: scores["int8"][key] / value - 1 for key, value in scores["fp32"].items() if value}
    print(f"{len(names)} images, {same:.1%} of the captions the same")
    print("change:", ", ".join(f"{key} {value:+.2%}" for key, value in change.items()))
    result = {
        "question": "quality of int8 against fp32 on Flickr8k, greedy",
        "images": len(names),
        "same_captions": round(same, 4),
        "scores": scores,
        "change": {key: round(value, 5) for key, value in change.items()},
        "activations_in_7_bits": int8_saturates(),
        "machine": describe_machine(torch.device("cpu")),
    }
    write_result(RESULTS / "quality-int8.json", result)


if __name__ == "__main__":
    main()
