"""Our own checkpoints (family `streamcap`): a directory of config.json, model.safetensors and tokenizer.json.

config.json: {"family": "streamcap", "vision": {...}, "mapping": {...} (both: see `mini_encoder`), "gpt2": a GPT-2
configuration, "image": an ImageSpec, "bos_token_id", "eos_token_id", "max_tokens"}. Tensors: `vision.*`, `mapping.*`,
and GPT-2 under `gpt.` with the names of GPT2LMHeadModel; float32 or float16.
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
from streamcap.captioner.checkpoints.settings import read_int
from streamcap.captioner.checkpoints.tensors import load_into, read_weights, strip_prefix
from streamcap.captioner.checkpoints.towers import weights_file
from streamcap.captioner.decoding.tokenizer import load_tokenizer
from streamcap.captioner.grounding.grounding import GroundedPrefix, Grounding, read_grounding
from streamcap.captioner.models.mini_encoder import TaggedMapping, build_mapping, build_vision
from streamcap.captioner.models.prompt import MappedPrefixPrompter
from streamcap.captioner.models.uninitialized import uninitialized
from streamcap.captioner.models.vision import Vision
from streamcap.errors import InputError, StreamcapError
from streamcap.image_spec import ImageSpec

FAMILY = "streamcap"
MAX_TOKENS = 30


def matches(config: Mapping[str, Any]) -> bool:
    """Whether config.json is of this family."""
    return config.get("family") == FAMILY


def load(directory: Path, config: Mapping[str, Any]) -> Checkpoint:
    """Raises InputError that names the file and the key, shape or setting at fault."""
    where = str(directory / "config.json")
    parts: dict[str, Mapping[str, Any]] = {}
    for name in ("vision", "mapping", "gpt2", "image"):
        fields = config.get(name)
        if not isinstance(fields, Mapping):
            raise InputError(f"{where}: {name} is missing or not a json object")
        parts[name] = fields
    file = weights_file(directory)
    weights = read_weights(file)
    stray = [key for key in weights if not key.startswith(("gpt.", "vision.", "mapping."))]
    if stray:
        raise InputError(f"{file}: unexpected key {stray[0]}")
    gpt2 = load_gpt2(strip_prefix(weights, "gpt."), parts["gpt2"], str(file), prefix="gpt.")
    image_spec = ImageSpec.from_json(dict(parts["image"]))
    encoder = _built(build_vision, parts["vision"], f"{where}: vision")
    load_into(encoder, strip_prefix(weights, "vision."), str(file), prefix="vision.")
    mapping = _built(build_mapping, parts["mapping"], f"{where}: mapping")
    load_into(mapping, strip_prefix(weights, "mapping."), str(file), prefix="mapping.")
    shape = _grid_shape(encoder, image_spec, where)
    prompter, grounding = _prompter(mapping, config, directory, where)
    stop = read_int(config, "eos_token_id", where, minimum=0)
    return Checkpoint(
        family=FAMILY,
        path=directory,
        gpt2=gpt2,
        prompter=prompter,
        grounding=grounding,
        embedding=shape,
        stop_tokens=check_stop(gpt2.config.eos_token_id if stop is None else stop, gpt2, where),
        max_tokens=read_int(config, "max_tokens", where, minimum=1) or MAX_TOKENS,
        vision=Vision(encoder, image_spec, shape.width).eval(),
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

    config: as above; `family` is added. vision, mapping: state dicts of the modules in `mini_encoder`. gpt2: a state
    dict of transformers' GPT2LMHeadModel; a tied `lm_head.weight` is not written. tokenizer: the json of a
    `tokenizers.Tokenizer`. Raises StreamcapError if the files cannot be written.
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


def _prompter(
    mapping: nn.Module, config: Mapping[str, Any], directory: Path, where: str
) -> tuple[MappedPrefixPrompter, Grounding | None]:
    if not isinstance(mapping, TaggedMapping):
        return MappedPrefixPrompter(mapping), None
    prompter = GroundedPrefix(mapping)
    if config.get("tags") is not None:
        prompter.grounding = read_grounding(config, where, load_tokenizer(directory))
    return prompter, prompter.grounding


def _built(build: Callable[[Mapping[str, Any]], nn.Module], fields: Mapping[str, Any], where: str) -> nn.Module:
    try:
        with uninitialized():
            return build(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: {type(error).__name__} {error}") from None


def _grid_shape(encoder: nn.Module, image_spec: ImageSpec, where: str) -> EmbeddingShape:
    """The shape of the encoder's output, measured on a black image."""
    try:
        with torch.inference_mode():
            out: Tensor = encoder(torch.zeros(1, 3, image_spec.height, image_spec.width))
    except RuntimeError as error:
        raise InputError(f"{where}: vision does not fit its image size: {str(error).splitlines()[0]}") from None
    if out.dim() == 3:
        return EmbeddingShape(out.shape[2], axes=(2,), count=out.shape[1])
    return EmbeddingShape(out.shape[1])
