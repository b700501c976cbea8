"""Shared by every trainer: weight decay groups, the learning rate schedule, weight averaging, saved states."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamcap.atomic import replacing
from streamcap.errors import InputError, StreamcapError

_NO_DECAY = ("wte", "wpe", "prefix", "positions")


def decay_groups(parameters: Iterable[tuple[str, nn.Parameter]], decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: weight decay for matrices and convolutions, none for embeddings, norms and biases."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in parameters:
        (matrices if decays(name, parameter) else rest).append(parameter)
    return [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices and convolutions, not to embeddings, norms and biases."""
    return parameter.ndim >= 2 and not any(part in name for part in _NO_DECAY)


def warm_cosine(step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """The learning rate at `step` (from 0), as a fraction of the maximum: linear warm-up over at most half of the
    steps, then a cosine (Loshchilov and Hutter 2017) to 0 at `steps`, but not below `floor`."""
    warmup = min(warmup, steps // 2)
    if step < warmup:
        return (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return max(floor, 0.5 * (1 + math.cos(math.pi * done)))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Update `ema`, the exponential moving average of the weights of `model`, after step `step` (from 1)."""
    # A shorter average at first, so that the random initial weights fade quickly.
    decay = min(decay, (1 + step) / (10 + step))
    for averaged, current in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
        if averaged.is_floating_point():
            averaged.lerp_(current, 1 - decay)
        else:
            averaged.copy_(current)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state from which a run resumes, atomically. Raises StreamcapError if the write fails."""
    try:
        with replacing(path) as stream:
            torch.save(dict(state), stream)
    except (OSError, RuntimeError) as error:
        raise StreamcapError(f"{path}: cannot be written ({error}); the last saved state is unchanged") from None


def load_state(path: Path, *keys: str) -> dict[str, Any]:
    """Load what `save_state` wrote, to the CPU. Raises InputError if the file is damaged or lacks one of `keys`."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch.load raises many types for damaged files
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path}: cannot be read ({reason}); delete it to start again") from None
    if not isinstance(state, dict) or not set(keys) <= set(state):
        raise InputError(f"{path}: is not a state of this kind of training; name another folder")
    return state
