"""Tag heads for a released checkpoint whose other weights all stay: what it says that is false gets less.

    python -m streamcap.training.mini.grounding.tag_heads FLICKR8K POOL RUN --start mini \\
        --flickr-labels flickr-labels.jsonl

The encoder's grids of a sample of all images are stored in RUN once; the heads learn on them in a minute. RUN/model is
the checkpoint with its heads; `grounding.calibrate` then chooses what they deny. See `grounding.recipe` for POOL.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from streamcap.atomic import read_json
from streamcap.captioner import load_captioner, registry
from streamcap.captioner.checkpoints.families.native import save_native
from streamcap.captioner.models.mini_encoder import LOGIT_SCALE, TagHeads, build_mapping
from streamcap.captioner.preprocess import fit_images
from streamcap.errors import InputError
from streamcap.training.data.arrays import read_array, write_array
from streamcap.training.mini.grounding.data.pool import PoolData, prepare_pool
from streamcap.training.mini.grounding.data.tags import CLASSES, SCENES, TAGS
from streamcap.training.mini.grounding.recipe import HIDDEN
from streamcap.training.mini.steps import run_command

log = logging.getLogger(__name__)

IMAGES: Final = 9_000
DRAWN: Final = 1_000
STEPS: Final = 1_500
BATCH: Final = 128
LEARNING_RATE: Final = 2e-3
DROPOUT: Final = 0.3
"""Of the grid's channels: the heads see an image once, as it is, and learn it by heart soon."""
_ENCODED_AT_ONCE = 16


def store_grids(start: Path, data: PoolData, run: Path) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int64]]:
    """Grids (n, N, C) of a sample of images and, last, of drawn scenes; and which images they are."""
    rng = np.random.default_rng(1)
    chances = data.images.chances / data.images.chances.sum()
    count = min(IMAGES, int(np.count_nonzero(chances)))
    rows = np.sort(rng.choice(len(chances), count, replace=False, p=chances))
    drawn = min(DRAWN, len(data.synthetic.tokens))
    path = run / "grids.npy"
    if not path.is_file():
        captioner = load_captioner(str(start), device="cpu", precision="fp32")

        def grids() -> Iterator[npt.NDArray[np.float16]]:
            for pixels, chosen in ((data.images.pixels, rows), (data.synthetic.images.pixels, np.arange(drawn))):
                for first in range(0, len(chosen), _ENCODED_AT_ONCE):
                    some = np.asarray(pixels[chosen[first : first + _ENCODED_AT_ONCE]])
                    fitted = fit_images(list(some), captioner.image_spec)
                    yield captioner.encode(fitted).half().numpy()

        one = fit_images(list(data.synthetic.images.pixels[:1]), captioner.image_spec)
        shape = tuple(captioner.encode(one).shape[1:])
        write_array(path, np.float16, (count + drawn, *shape), grids())
    found: npt.NDArray[np.float16] = read_array(path)
    if len(found) != count + drawn:
        raise InputError(f"{path}: holds {len(found)} grids, not {count + drawn}; name another folder")
    return found, rows


def train_heads(
    grids: npt.NDArray[np.float16], values: npt.NDArray[np.float16], weights: npt.NDArray[np.float16], channels: int
) -> TagHeads:
    """Heads by the binary cross-entropy of what is known."""
    torch.manual_seed(0)
    heads = TagHeads(channels, HIDDEN, len(TAGS))
    share = (values * weights).astype(np.float64).sum(0) / np.maximum(weights.astype(np.float64).sum(0), 1e-6)
    share = np.clip(share, 1e-3, 0.999)
    with torch.no_grad():
        heads.project_out.bias.copy_(torch.from_numpy(np.log(share / (1 - share)) / LOGIT_SCALE))
    optimizer = torch.optim.AdamW(heads.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    x, y, w = (torch.from_numpy(np.array(part)) for part in (grids, values, weights))
    for step in range(STEPS):
        rows = torch.randint(len(x), (BATCH,))
        seen = x[rows].float()
        kept = (torch.rand(BATCH, 1, channels) > DROPOUT) / (1 - DROPOUT)
        loss = F.binary_cross_entropy_with_logits(heads(seen * kept), y[rows].float(), w[rows].float(), reduction="sum")
        optimizer.zero_grad(set_to_none=True)
        (loss / BATCH).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            log.info("heads %d/%d: %.3f", step + 1, STEPS, loss.item() / BATCH)
    return heads


def save_tagged(start: Path, heads: TagHeads, target: Path) -> None:
    """The checkpoint `start` with these heads, which tell its prefix nothing."""
    config = read_json(start / "config.json")
    tensors = load_file(start / "model.safetensors")
    fields: dict[str, Any] = {"architecture": "tagged_grid", "tags": len(TAGS), "hidden": HIDDEN}
    config["mapping"] = {**config["mapping"], **fields}
    config["tags"] = {"objects": list(CLASSES), "scenes": list(SCENES)}
    mapping = build_mapping(config["mapping"]).state_dict()
    mapping |= _part(tensors, "mapping.")
    mapping |= {f"tag_heads.{name}": value for name, value in heads.state_dict().items()}
    save_native(
        target,
        config=config,
        vision=_part(tensors, "vision."),
        mapping=mapping,
        gpt2=_part(tensors, "gpt."),
        tokenizer=(start / "tokenizer.json").read_text(encoding="utf-8"),
    )


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def train(start: Path, data: PoolData, run: Path) -> None:
    """Store the grids, train the heads and write RUN/model."""
    grids, rows = store_grids(start, data, run)
    drawn = data.synthetic.values[: len(grids) - len(rows)]
    values = np.concatenate((data.images.values[rows], drawn))
    weights = np.concatenate((data.images.weights[rows], np.ones_like(drawn)))
    save_tagged(start, train_heads(grids, values, weights, grids.shape[2]), run / "model")


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 2 for wrong use, with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m streamcap.training.mini.grounding.tag_heads", description=__doc__)
    parser.add_argument("flickr", type=Path, help="Flickr8k's folder")
    parser.add_argument("pool", type=Path, help="the pool's folder")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--start", default="mini", help="the checkpoint that gets heads")
    parser.add_argument("--flickr-labels", type=Path, help="teachers.jsonl of Flickr8k's images")

    def run(given: argparse.Namespace) -> None:
        start = registry.find_checkpoint(given.start)
        tokenizer = Tokenizer.from_file(str(start / "tokenizer.json"))
        data = prepare_pool(given.flickr, given.pool, None, given.flickr_labels, given.run, tokenizer)
        train(start, data, given.run)

    return run_command(parser, arguments, run)


if __name__ == "__main__":
    sys.exit(main())
