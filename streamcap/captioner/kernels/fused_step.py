"""Whether GPT-2's decode pass runs on the fused kernels of `triton_step`: what they support, and a check at load.

A step of a small GPT-2 on a GPU is bound by the number of kernels, even when a CUDA graph replays them; the fused pass
has half as many. `install` uses it where Triton, the GPU and the model allow it, and where it agrees with torch's
kernels on this GPU with these weights. In all other cases torch's kernels stay, and the log says why.

STREAMCAP_CUDA_FUSED: `auto` is as above, `off` keeps torch's kernels.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamcap.atomic import make_directory, read_json, write_json
from streamcap.captioner.kernels import step_check
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.registry import cache_directory
from streamcap.errors import InputError, StreamcapError

log = logging.getLogger(__name__)

VARIABLE = "STREAMCAP_CUDA_FUSED"
MODES = ("auto", "off")
MAX_WIDTH = 1024
_WITHOUT = "decoding without the fused CUDA kernels: %s"
_HEAD_WIDTHS = (16, 32, 64, 128)
_TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
TRIAL_TIMEOUT_S = 300.0
_MIN_CAPABILITY = (8, 0)
"""Ampere, the oldest GPUs that Triton supports."""


def install(gpt2: GPT2) -> None:
    """Use the fused pass for `gpt2`, complete and on a GPU, if it is supported and passes the check.

    Raises InputError for an unknown STREAMCAP_CUDA_FUSED.
    """
    mode = os.environ.get(VARIABLE) or "auto"
    if mode not in MODES:
        raise InputError(f"{VARIABLE}={mode}: it is {' or '.join(MODES)}")
    reason = f"{VARIABLE}=off" if mode == "off" else unsupported(gpt2) or unavailable(gpt2.device)
    if reason is not None:
        log.info(_WITHOUT, reason)
        return
    reason = _try(gpt2)
    if reason is not None:
        log.warning(_WITHOUT, reason)


def _try(gpt2: GPT2) -> str | None:
    try:
        reason = _trial(gpt2)
        if reason is not None:
            return reason
        from streamcap.captioner.kernels.triton_step import TritonStep

        fused = TritonStep(gpt2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Triton, about its own defaults
            reason = step_check.disagreement(gpt2, fused)
    except Exception as error:  # noqa: BLE001 - Triton fails in many ways; none may stop the captions
        return _one_line(f"{type(error).__name__}: {error}")
    if reason is None:
        gpt2.fused_step = fused
    return reason


def _one_line(text: str) -> str:
    return text.strip().partition("\n")[0]


# The trial ---------------------------------------------------------------------------------------------------------


def _trial(gpt2: GPT2) -> str | None:
    """Why a first check, in a process of its own and with random weights, failed; None: it passed.

    A faulty kernel could end this process's use of the GPU, and Triton's compiler ends its process on some errors. The
    result is kept for this GPU, these versions and this shape; the compiled kernels are kept by Triton.
    """
    device = gpt2.device
    config = replace(gpt2.config, n_layer=min(2, gpt2.config.n_layer))
    request = {"gpt2": asdict(config), "dtype": str(gpt2.dtype).removeprefix("torch."), "device": str(device)}
    file = cache_directory() / "fused-step" / f"{_fingerprint(request)}.json"
    with contextlib.suppress(InputError, KeyError):  # not tried yet
        reason: str | None = read_json(file)["reason"]
        return None if reason is None else f"{reason} (to try again, remove {file})"
    log.warning("checking the fused CUDA kernels on this GPU; only at the first start, less than a minute")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = _command(json.dumps(request))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TRIAL_TIMEOUT_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        reason = f"the check took longer than {TRIAL_TIMEOUT_S:g} s"
    else:
        try:
            reason = json.loads(done.stdout.strip().rpartition("\n")[2])["reason"]
        except (ValueError, KeyError, TypeError):
            reason = f"the check ended with status {done.returncode}"
            last = done.stderr.strip().rpartition("\n")[2]
            if "out of memory" in last.lower():
                return f"{reason}: {last}"  # may work next time
            reason = f"{reason}: {last}" if last else reason
    try:
        make_directory(file.parent)
        write_json(file, {"reason": reason})
    except StreamcapError as error:
        log.info("the next start checks the fused CUDA kernels again: %s", error)
    return reason


def _command(request: str) -> list[str]:
    return [sys.executable, "-P", "-m", "streamcap.captioner.kernels.step_check", request]


def _fingerprint(request: dict[str, Any]) -> str:
    """Of all that decides whether the kernels work: GPU, versions, shape, and the code."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = ""
    gpu = str(torch.cuda.get_device_properties(request["device"])) if torch.cuda.is_available() else "cpu"
    digest = hashlib.sha256(json.dumps([request, gpu, torch.__version__, triton], sort_keys=True).encode())
    for name in ("triton_kernels", "triton_step", "step_check"):
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


# What is supported -----------------------------------------------------------------------------------------------


def unsupported(gpt2: GPT2) -> str | None:
    """Why the kernels cannot run this model; None: they can."""
    config = gpt2.config
    if gpt2.dtype not in (torch.float16, torch.bfloat16):
        return f"they are for fp16 and bf16, not {str(gpt2.dtype).removeprefix('torch.')}"
    if config.cross_width:
        return "they have no cross-attention"
    if config.activation_function not in _TANH_GELU:
        return f"they have no activation {config.activation_function}"
    if config.head_width not in _HEAD_WIDTHS or config.n_embd > MAX_WIDTH or config.n_embd % 16 or config.n_inner % 16:
        return f"they do not fit a width of {config.n_embd} with {config.n_head} heads and {config.n_inner} inside"
    blocks: list[Any] = list(gpt2.blocks)
    linears = [layer for b in blocks for layer in (b.attention.qkv, b.attention.out, b.fc1, b.fc2)]
    plain = all(type(layer) is nn.Linear for layer in (*linears, gpt2.head)) and type(gpt2.wte) is nn.Embedding
    if not plain or any(layer.bias is None for layer in linears) or getattr(gpt2.head, "bias", None) is not None:
        return "the model's layers are not those of GPT-2"
    if not all(weight.is_contiguous() and weight.dtype == gpt2.dtype for weight in gpt2.parameters()):
        return "the weights are not contiguous, or of different types"
    return None


def unavailable(device: torch.device) -> str | None:
    """Why this machine cannot run the kernels; None: it can."""
    if device.type != "cuda" or torch.version.cuda is None:
        return "they need an NVIDIA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < _MIN_CAPABILITY:
        needed, found = (".".join(map(str, each)) for each in (_MIN_CAPABILITY, capability))
        return f"they need compute capability {needed}, this GPU has {found}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        return "TRITON_INTERPRET is set"
    return None
