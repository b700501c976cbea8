"""Export a trained model in streamcap's checkpoint layout: config.json, model.safetensors, tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from streamcap.atomic import atomic_write
from streamcap.captioner.checkpoints.families.native import save_native
from streamcap.captioner.models.mini_encoder import fold
from streamcap.errors import InputError, StreamcapError
from streamcap.image_spec import ImageSpec
from streamcap.training.model import CaptionModel

MAX_TOKENS = 40


def native_config(model: Mapping[str, Any], image_spec: ImageSpec) -> dict[str, Any]:
    """The content of config.json, from the `vision`, `mapping` and `gpt2` parts of the model's own configuration."""
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
    """Copy every file of directory `source` into `target`, each atomically. Raises StreamcapError if a write fails."""
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        atomic_write(target / file.name, file.read_bytes(), sync=True, error=StreamcapError)


def export_native(
    directory: Path, model: CaptionModel, config: Mapping[str, Any], image_spec: ImageSpec, tokenizer: Tokenizer
) -> None:
    """Write `model`, built from `config`, in half precision with folded batch norms.

    Raises InputError for a model without a vision encoder.
    """
    if model.vision is None:
        raise InputError("a model without a vision encoder cannot be exported in streamcap's layout")
    save_native(
        directory,
        config=native_config(config, image_spec),
        vision=fold(model.vision),
        mapping=model.mapping.state_dict(),
        gpt2=model.gpt.state_dict(),
        tokenizer=tokenizer.to_str(),
    )
