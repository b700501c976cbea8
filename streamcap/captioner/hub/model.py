"""Image-to-text models of the hub through transformers' own classes: BLIP, GIT, SmolVLM, Qwen2-VL, LLaVA and others."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from streamcap.atomic import read_json
from streamcap.captioner.hub.processor import first_line, load_processor
from streamcap.captioner.kernels.precision import DTYPES, find_device
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec

if TYPE_CHECKING:
    from streamcap.captioner.preprocess import ImageInput

DEFAULT_PROMPT = "Describe what this image shows in one short sentence."
"""For models that follow instructions."""
_PROMPTS = {"florence2": "<CAPTION>", "paligemma": "caption en", "kosmos-2": "An image of"}
"""What models of these types were trained with."""
_BEGINS_CAPTION = frozenset({"blip", "git"})
"""Types whose prompt is the beginning of the caption. They need none."""
_ADDS_IMAGE_TOKEN = frozenset({"blip-2", "instructblip", "paligemma", "florence2", "kosmos-2"})
"""Types whose processor puts the image's place into the prompt."""
_OURS = "vision-encoder-decoder"
_ANY_SIZE = ImageSpec(640, 360, "pad")
"""For models that take images of any size: the aspect ratio of cameras, few enough image tokens for live video."""


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model with its processor, ready to run."""

    kind: str
    """transformers' `model_type`."""
    model: Any
    processor: Any
    image_spec: ImageSpec
    """The pixels for live video. `inputs` takes images of any size."""

    def inputs(self, images: Sequence[ImageInput], prompt: str | None) -> dict[str, Any]:
        """The model's inputs for `images`, all with the same prompt; None: the default one."""
        if self.kind in _BEGINS_CAPTION:
            beginning = {} if prompt is None else {"text": [prompt] * len(images)}
            given = self.processor(images=list(images), return_tensors="pt", **beginning)
        elif getattr(self.processor, "chat_template", None):
            question = prompt or DEFAULT_PROMPT
            turns = [[_turn(image, question)] for image in images]
            given = self.processor.apply_chat_template(
                turns,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True, "padding_side": "left"},
            )
        else:
            text = [self._text(prompt)] * len(images)
            given = self.processor(
                images=list(images), text=text, return_tensors="pt", padding=True, padding_side="left"
            )
        device, dtype = self.model.device, self.model.dtype
        return {
            name: value.to(device, dtype if value.is_floating_point() else None) if hasattr(value, "to") else value
            for name, value in given.items()
        }

    def text(self, tokens: Sequence[int], prompt: str | None) -> str:
        """The caption that `tokens` are; it begins with the prompt where that is the model's way."""
        text = self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
        if prompt is not None and self.kind in _BEGINS_CAPTION:
            text = f"{prompt} {text.strip()}"
        return " ".join(text.split())

    @property
    def stops(self) -> frozenset[int]:
        """Tokens that end a caption."""
        tokenizer = self.processor.tokenizer
        ends = self.model.generation_config.eos_token_id
        found = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id}
        if self.kind in _BEGINS_CAPTION:
            found.add(tokenizer.sep_token_id)
        return frozenset(end for end in found if end is not None)

    def _text(self, prompt: str | None) -> str:
        text = prompt or _PROMPTS.get(self.kind, DEFAULT_PROMPT)
        token = getattr(self.processor, "image_token", None)
        if token is None or self.kind in _ADDS_IMAGE_TOKEN or str(token) in text:
            return text
        return f"USER: {token}\n{text} ASSISTANT:"  # the form of LLaVA, whose first versions have no chat template


def _turn(image: ImageInput, question: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}


def find_hub_kind(path: Path) -> str | None:
    """The `model_type` of the directory at `path`, if transformers turns images into text with it; else None.

    Raises InputError for a model that would need code from its repository, or that transformers does not know.
    """
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind == _OURS:
        return None
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return kind
    if "auto_map" in config:
        raise InputError(
            f"{path / 'config.json'}: model_type {kind!r} needs code from its repository, which streamcap never "
            "runs; choose a model that transformers knows"
        )
    if "architectures" in config:
        raise InputError(
            f"{path / 'config.json'}: model_type {kind!r} is no image-to-text model of this transformers version"
        )
    return None


def find_hub_precision(name: str, device: torch.device) -> str:
    """The precision called `name`; `auto`: bf16 or fp16 on a GPU, fp32 on a CPU. Raises InputError."""
    if name == "auto":
        if device.type == "cpu":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if name not in DTYPES or (name == "fp16" and device.type == "cpu"):
        allowed = "fp32 or bf16" if device.type == "cpu" else "fp32, bf16 or fp16"
        raise InputError(f"precision {name}: a model of the hub runs in {allowed} on {device.type}")
    return name


def load(directory: Path, kind: str, *, device: str, precision: str) -> tuple[HubModel, torch.device, str]:
    """The model in `directory`, its device and precision. Weights are read as safetensors, or with `weights_only`.

    Code of the repository is never run (`trust_remote_code`). Raises InputError with a one-line message.
    """
    target = find_device(device)
    resolved = find_hub_precision(precision, target)
    # Its warnings about options that do not apply would be repeated for every caption.
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    processor = load_processor(directory)
    model = _load_model(directory, DTYPES[resolved])
    try:
        model = model.to(target).eval()
    except torch.OutOfMemoryError:
        raise InputError(f"out of memory on {target}: the model does not fit; use another device") from None
    return HubModel(kind, model, processor, _image_spec(processor.image_processor)), target, resolved


def _load_model(directory: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForImageTextToText

    loader: Any = AutoModelForImageTextToText
    try:
        model, report = loader.from_pretrained(
            directory,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise InputError(f"{directory}: the model cannot be loaded: {first_line(error)}") from None
    if missing := sorted(report["missing_keys"]):
        raise InputError(f"{directory}: {len(missing)} weights are missing, {missing[0]} for one")
    return model


def _image_spec(processor: Any) -> ImageSpec:
    """The pixels that the image processor need not resize; for models of any image size, those of a camera."""
    crop, size = getattr(processor, "crop_size", None), getattr(processor, "size", None)
    cropped = bool(getattr(processor, "do_center_crop", False)) and crop is not None
    sides = _sides(crop if cropped else size)
    if sides is None:
        return _ANY_SIZE
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    return ImageSpec(
        *sides,
        "crop" if cropped else "squash",
        mean=_three(mean) or (0.5, 0.5, 0.5),
        std=_three(std) or (0.5, 0.5, 0.5),
    )


def _sides(size: Any) -> tuple[int, int] | None:
    width, height = getattr(size, "width", None), getattr(size, "height", None)
    if isinstance(size, Mapping):
        width, height = size.get("width"), size.get("height")
    return (int(width), int(height)) if width and height else None


def _three(values: Any) -> tuple[float, float, float] | None:
    if not isinstance(values, list | tuple) or len(values) != 3:
        return None
    return float(values[0]), float(values[1]), float(values[2])
