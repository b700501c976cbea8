"""Our own checkpoints (family `streamcap`): a directory of config.json, model.safetensors and tokenizer.json.

config.json: {"family": "streamcap", "vision": {...}, "mapping": {...} (see `compact`), "gpt2": a GPT-2 configuration,
"picture": a PictureSpec, "bos_token_id", "eos_token_id", "max_tokens"}. Tensors: `vision.*`, `mapping.*`, and GPT-2
under `gpt.` with the names of GPT2LMHeadModel; float32 or float16.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from streamcap.captioner.checkpoints.checkpoint import Checkpoint, EmbeddingShape
from streamcap.captioner.checkpoints.decoder import check_stop, load_gpt2
from streamcap.captioner.checkpoints.settings import whole
from streamcap.captioner.checkpoints.tensors import fill, read_weights, section
from streamcap.captioner.prompt import MappedPrefix
from streamcap.captioner.vision import Vision
from streamcap.errors import InputError, StreamcapError
from streamcap.picture import PictureSpec

FAMILY = "streamcap"
MAX_TOKENS = 30


def claims(config: Mapping[str, Any]) -> bool:
    """Whether config.json is one of ours."""
    return config.get("family") == FAMILY


def load(directory: Path, config: Mapping[str, Any]) -> Checkpoint:
    """Raises InputError that names the file and the key, shape or setting at fault."""
    from streamcap.captioner.compact import build_mapping, build_vision

    where = str(directory / "config.json")
    parts: dict[str, Mapping[str, Any]] = {}
    for name in ("vision", "mapping", "gpt2", "picture"):
        fields = config.get(name)
        if not isinstance(fields, Mapping):
            raise InputError(f"{where}: {name} is missing or no json object")
        parts[name] = fields
    file = directory / "model.safetensors"
    weights = read_weights(file)
    stray = [key for key in weights if not key.startswith(("gpt.", "vision.", "mapping."))]
    if stray:
        raise InputError(f"{file}: unexpected key {stray[0]}")
    gpt2 = load_gpt2(section(weights, "gpt."), parts["gpt2"], str(file), prefix="gpt.")
    picture = PictureSpec.from_json(dict(parts["picture"]))
    encoder = _built(build_vision, parts["vision"], f"{where}: vision")
    fill(encoder, section(weights, "vision."), str(file), prefix="vision.")
    mapping = _built(build_mapping, parts["mapping"], f"{where}: mapping")
    fill(mapping, section(weights, "mapping."), str(file), prefix="mapping.")
    shape = _grid_shape(encoder, picture, where)
    stop = whole(config, "eos_token_id", where, least=0)
    return Checkpoint(
        family=FAMILY,
        path=directory,
        gpt2=gpt2,
        prompter=MappedPrefix(mapping),
        embedding=shape,
        stop_tokens=check_stop(gpt2.config.eos_token_id if stop is None else stop, gpt2, where),
        max_tokens=whole(config, "max_tokens", where, least=1) or MAX_TOKENS,
        vision=Vision(encoder, picture, shape.width).eval(),
        tokenizer=directory,
    )


def save_native(
    directory: Path,
    *,
    config: Mapping[str, Any],
    vision: Mapping[str, Tensor],
    mapping: Mapping[str, Tensor],
    gpt2: Mapping[str, Tensor],
    tokenizer: str,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a checkpoint that `load` reads.

    config: as above, `family` is filled in. vision, mapping: state dicts of `compact`'s modules. gpt2: a state dict of
    transformers' GPT2LMHeadModel; a tied `lm_head.weight` is left out. tokenizer: the json of a `tokenizers.Tokenizer`.
    Raises StreamcapError where the disk does not take them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    gpt = {key: value for key, value in gpt2.items() if key != "lm_head.weight"}
    head = gpt2.get("lm_head.weight")
    if head is not None and not torch.equal(head, gpt2["transformer.wte.weight"]):
        gpt["lm_head.weight"] = head
    tensors = {
        f"{prefix}{key}": value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
        for prefix, part in (("vision.", vision), ("mapping.", mapping), ("gpt.", gpt))
        for key, value in part.items()
    }
    text = json.dumps({"family": FAMILY, **config}, indent=2, ensure_ascii=False)
    try:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(text + "\n", encoding="utf-8")
        (directory / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise StreamcapError(f"{directory}: the checkpoint cannot be written ({error})") from None


def _built(build: Callable[[Mapping[str, Any]], nn.Module], fields: Mapping[str, Any], where: str) -> nn.Module:
    try:
        with torch.device("meta"):
            return build(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: {type(error).__name__} {error}") from None


def _grid_shape(encoder: nn.Module, picture: PictureSpec, where: str) -> EmbeddingShape:
    """What the encoder gives for one picture, found by running it on nothing."""
    try:
        with torch.inference_mode():
            out: Tensor = encoder(torch.zeros(1, 3, picture.height, picture.width))
    except RuntimeError as error:
        raise InputError(f"{where}: vision does not take its picture: {str(error).splitlines()[0]}") from None
    if out.dim() == 3:
        return EmbeddingShape(out.shape[2], axes=(2,), count=out.shape[1])
    return EmbeddingShape(out.shape[1])
