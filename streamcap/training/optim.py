"""What every kind of training here does alike: which weights decay, how the rate goes, what is kept and how."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamcap.atomic import replacing
from streamcap.errors import InputError, StreamcapError

_FLAT = ("wte", "wpe", "prefix", "positions")


def decay_groups(parameters: Iterable[tuple[str, nn.Parameter]], decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: weight decay for matrices alone; embeddings, norms and biases go without."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in parameters:
        (matrices if decays(name, parameter) else rest).append(parameter)
    return [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is a matrix or a convolution: no embedding, norm or bias."""
    return parameter.ndim >= 2 and not any(part in name for part in _FLAT)


def warm_cosine(step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """The share of the highest rate that step number `step`, from 0, has: a linear warm-up over at most half of the
    steps, then a cosine (Loshchilov and Hutter 2017) to 0 at `steps`, but never under `floor`."""
    warmup = min(warmup, steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return max(floor, 0.5 * (1 + math.cos(math.pi * done)))


@torch.no_grad()
def average(mean: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Draw the running mean of the weights towards `model`, after step number `step`, from 1."""
    # At first the mean is short, so that it does not carry the random weights along.
    decay = min(decay, (1 + step) / (10 + step))
    for kept, now in zip(mean.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(now, 1 - decay)
        else:
            kept.copy_(now)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write what a run needs to go on, whole or not at all. Raises StreamcapError where the disk does not take it."""
    try:
        with replacing(path) as stream:
            torch.save(dict(state), stream)
    except (OSError, RuntimeError) as error:
        raise StreamcapError(f"{path}: cannot be written ({error}); the last state is as it was") from None


def load_state(path: Path, *keys: str) -> dict[str, Any]:
    """What `save_state` wrote, on the CPU. Raises InputError for a file that is damaged or lacks one of `keys`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch.load raises whatever the damaged part happens to break
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: cannot be read ({why}); delete it to start anew") from None
    if not isinstance(state, dict) or not set(keys) <= set(state):
        raise InputError(f"{path}: is no state of this kind of training; name another folder")
    return state
