"""`load_captioner`: loads any captioner by name, file, directory or hub name."""

from __future__ import annotations

from pathlib import Path

from streamcap.captioner import registry
from streamcap.captioner.captioner import Captioner
from streamcap.captioner.checkpoints import open_checkpoint
from streamcap.captioner.checkpoints.families.native import FAMILY
from streamcap.captioner.hub.model import find_hub_kind
from streamcap.captioner.kernels.precision import find_device, find_precision
from streamcap.errors import InputError


def load_captioner(
    name: str | Path,
    device: str = "auto",
    precision: str = "auto",
    vision: str | Path | None = None,
    tokenizer: str | Path | None = None,
    prompt: str | None = None,
) -> Captioner:
    """Load a captioner: `mini`, an alias (`streamcap models`), a file, a directory, or a hub `owner/name`.

    vision, tokenizer: a directory or hub name, for checkpoints that contain none. prompt: for models that take one,
    which are those of the hub that run in transformers' own classes. Raises InputError with a one-line message if it
    cannot be loaded.
    """
    path = registry.find_checkpoint(str(name))
    hub_kind = find_hub_kind(path)
    if hub_kind is not None:
        if vision is not None or tokenizer is not None:
            raise InputError(f"{name}: has its own vision encoder and tokenizer; vision= and tokenizer= do not apply")
        from streamcap.captioner.hub.captioner import load_hub_captioner

        return load_hub_captioner(
            path,
            hub_kind,
            device=device,
            precision=precision,
            prompt=prompt,
            load_gate=lambda: load_captioner("mini", device=device),
        )
    if prompt is not None:
        raise InputError(f"{name}: takes no prompt")
    target = find_device(device)
    find_precision(precision, target)  # a wrong name is refused before a large file is read
    checkpoint = open_checkpoint(path)
    resolved = find_precision(precision, target, native=checkpoint.family == FAMILY)
    return Captioner(checkpoint, device=target, precision=resolved, vision=vision, tokenizer=tokenizer)
