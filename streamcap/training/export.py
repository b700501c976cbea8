"""A trained model of ours as the directory `load_captioner` reads: config.json, model.safetensors, tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from streamcap.captioner.checkpoints.native import save_native
from streamcap.captioner.models.mini_encoder import fold
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec
from streamcap.training.files import write_bytes
from streamcap.training.model import CaptionModel

MAX_TOKENS = 40


def native_config(model: Mapping[str, Any], image_spec: ImageSpec) -> dict[str, Any]:
    """config.json from the parts that a model was built from: `vision`, `mapping`, `gpt2` and, if any, `tags`."""
    gpt2 = dict(model["gpt2"])
    tags = {"tags": dict(model["tags"])} if "tags" in model else {}
    return {
        "vision": {**model["vision"], "folded": True},
        "mapping": {**model["mapping"], "dropout": 0.0},
        "gpt2": gpt2,
        "image": image_spec.to_json(),
        "bos_token_id": gpt2["bos_token_id"],
        "eos_token_id": gpt2["eos_token_id"],
        "max_tokens": MAX_TOKENS,
        **tags,
    }


def copy_checkpoint(source: Path, target: Path) -> None:
    """Every file of the directory `source` into `target`, each whole or not at all. Raises StreamcapError where the
    disk does not take them."""
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        write_bytes(target / file.name, file.read_bytes())


def export_native(
    directory: Path, model: CaptionModel, config: Mapping[str, Any], image_spec: ImageSpec, tokenizer: Tokenizer
) -> None:
    """Write `model`, built from `config`, in half precision and with its batch norms folded."""
    if model.vision is None:
        raise InputError("a model without a vision encoder is written in the layout of its mapping, not in ours")
    save_native(
        directory,
        config=native_config(config, image_spec),
        vision=fold(model.vision),
        mapping=model.mapping.state_dict(),
        gpt2=model.gpt.state_dict(),
        tokenizer=tokenizer.to_str(),
    )
