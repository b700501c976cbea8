"""Reads weights from files, and checks every key and shape."""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from streamcap.captioner.checkpoints.plain_types import plain_types
from streamcap.captioner.checkpoints.settings import is_index
from streamcap.captioner.checkpoints.shards import read_index
from streamcap.errors import InputError

Weights = dict[str, Tensor]
Shape = tuple[int, ...]

_WRAPPERS = ("model_state_dict", "state_dict", "model", "net", "module")
"""Keys under which trainers store the state dict; any other key will do if it is the only one that holds tensors."""
_AVERAGES = ("ema", "average", "swa")
"""Parts of the names of averaged weights, which are taken where there are no others."""
_OTHERS = ("optim", "sched", "scaler", "rng", *_AVERAGES)
_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html")
_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "RAR",
}
"""The first bytes of archives and compressed files, in which downloads come."""
# torch.compile, DataParallel and DistributedDataParallel, Lightning Fabric, FSDP, activation checkpointing.
_WRAPPING_MODULE = re.compile(
    r"(?:(?<=^)|(?<=\.))(?:_orig_mod|module|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_CAPTIONER = re.compile(r"(?:(?<=^)|(?<=\.))(?:clip_project\.|td\.model\.)")
"""Where the keys of a captioner begin, whatever module holds it."""
_ATTRIBUTES = ("model.", "net.", "captioner.")
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")


def read_weights(path: Path) -> Weights:
    """The named tensors of a safetensors or PyTorch file, on the CPU.

    path: may be the index of a sharded checkpoint. A trainer's dict around the state dict is removed, and so are key
    prefixes from compiled or wrapped modules. Raises InputError for a file that is missing, truncated or no checkpoint,
    and for a pickle that would run code.
    """
    if is_index(path):
        return _without_wrappers(_read_shards(path), path)
    return _without_wrappers(_read_file(path), path)


def _read_shards(index: Path) -> Weights:
    weights: Weights = {}
    for shard, keys in read_index(index).items():
        tensors = _read_file(shard)
        missing = [key for key in keys if key not in tensors]
        if missing:
            raise InputError(f"{shard}: {missing[0]} is missing; {index.name} lists it")
        weights |= {key: tensors[key] for key in keys}
    return weights


def _read_file(path: Path) -> Weights:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    _check_start(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            # torch warns of an unusual pickle protocol; the file is then read, or refused below.
            warnings.simplefilter("ignore", UserWarning)
            with torch.serialization.safe_globals(plain_types()):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise InputError(f"{path}: no permission to read it") from None
    except pickle.UnpicklingError as error:
        match = _REFUSED.search(str(error))
        code = match[1] if match else _code_in_pickle(path)
        if code is None:
            raise InputError(f"{path}: not a PyTorch checkpoint, or a damaged one") from None
        raise InputError(
            f"{path}: refused: a pickle that contains code ({code}); save it again as a plain state dict"
        ) from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file, or a truncated one ({error})") from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, OSError, AttributeError):
        # For other files, the type of torch.load's error depends on the position of the fault.
        raise InputError(f"{path}: not a PyTorch checkpoint, or a truncated one") from None
    return _state_dict(content, path)


def _check_start(path: Path) -> None:
    """Raises InputError for an empty file, and for what a failed download leaves."""
    try:
        with path.open("rb") as file:
            first = file.read(256)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not first:
        raise InputError(f"{path}: the file is empty")
    if first.startswith(_POINTER):
        raise InputError(f"{path}: a Git LFS pointer, not the weights; fetch them with `git lfs pull`")
    if first.lstrip().lower().startswith(_PAGES):
        raise InputError(f"{path}: a web page, not the weights; download the file itself")
    for mark, kind in _ARCHIVES.items():
        if first.startswith(mark):
            raise InputError(f"{path}: {kind} data, not the weights; unpack it first")
    # torch.save writes ZIP files too.
    if first.startswith(b"PK") and (content := _content_of_other_zip(path)):
        raise InputError(f"{path}: a ZIP archive of other files ({content}); unpack it first")


def _content_of_other_zip(path: Path) -> str:
    """The first names in a ZIP file that torch has not written; empty for its own, and for a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError):
        return ""
    if any(name.endswith(("data.pkl", "constants.pkl")) for name in names):
        return ""
    return ", ".join(repr(name[:60]) for name in names[:3]) + ("" if len(names) <= 3 else ", …")


def _code_in_pickle(path: Path) -> str | None:
    """The first name that a bare pickle would import; None if it is no pickle or contains only plain values."""
    with path.open("rb") as file:
        if file.read(1) != b"\x80":
            return None
        file.seek(0)
        strings: list[str] = []
        try:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name in ("GLOBAL", "INST"):
                    return str(argument).replace(" ", ".")
                if opcode.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:])
                if isinstance(argument, str):
                    strings.append(argument)
        except ValueError:
            return None
    return None


def _state_dict(content: object, path: Path) -> Weights:
    while isinstance(content, Mapping):
        wrapped = next((name for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
        wrapped = wrapped or _only_weights(content)
        if wrapped is None:
            break
        content = content[wrapped]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path}: contains no state dict but a {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(f"{path}: not a state dict: {key!r} is a {type(value).__name__}, not a tensor")
    return dict(content)


def _only_weights(content: Mapping[object, object]) -> str | None:
    """The one key whose value holds tensors, those of the model before averaged ones; None if there is not just one."""
    if any(isinstance(value, Tensor) for value in content.values()):
        return None
    found = [str(key) for key, value in content.items() if isinstance(value, Mapping) and _has_tensors(value)]
    plain = [name for name in found if not any(part in name.lower() for part in _OTHERS)]
    averaged = [name for name in found if any(part in name.lower() for part in _AVERAGES)]
    chosen = plain or averaged
    return chosen[0] if len(chosen) == 1 and chosen[0] in content else None


def _has_tensors(content: Mapping[object, object]) -> bool:
    return any(
        isinstance(value, Tensor) or (isinstance(value, Mapping) and _has_tensors(value)) for value in content.values()
    )


def _without_wrappers(weights: Weights, path: Path) -> Weights:
    """The weights with the keys of the bare model."""
    bare = {_WRAPPING_MODULE.sub("", key): value for key, value in weights.items()}
    # A LightningModule or another trainer's module holds the captioner as an attribute.
    while prefix := next((name for name in _ATTRIBUTES if bare and all(key.startswith(name) for key in bare)), None):
        bare = {key.removeprefix(prefix): value for key, value in bare.items()}
    if len(bare) < len(weights):
        raise InputError(f"{path}: two keys differ only in the prefixes of compiled or wrapped modules")
    return _one_captioner(bare, path)


def _one_captioner(weights: Weights, path: Path) -> Weights:
    """The captioner's weights, if a larger module holds it as an attribute beside others (a loss, CLIP, an average)."""
    prefixes = {key[: match.start()] for key in weights if (match := _CAPTIONER.search(key))}
    if not prefixes or prefixes == {""}:
        return weights
    kept = [prefix for prefix in prefixes if not any(part in prefix for part in _AVERAGES)] or [*prefixes]
    if len(kept) > 1:
        names = ", ".join(sorted(prefix or "top level" for prefix in kept))
        raise InputError(f"{path}: holds {len(kept)} captioners ({names}); save one of them alone")
    prefix = kept[0]
    if prefix:
        return strip_prefix(weights, prefix)
    others = tuple(other for other in prefixes if other)
    return {key: value for key, value in weights.items() if not key.startswith(others)}


def strip_prefix(weights: Mapping[str, Tensor], prefix: str) -> Weights:
    """The tensors whose key starts with `prefix`, with the prefix removed."""
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def check_state_dict(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, Shape],
    where: str,
    *,
    prefix: str = "",
    optional: Iterable[str] = (),
) -> None:
    """Check every key, shape and value; non-finite weights would give wrong captions that look normal.

    where, prefix: a path and a key prefix, for the message. optional: keys that may be missing. Raises InputError that
    names the first key that is missing, unexpected, of another shape or dtype, or not finite.
    """
    may_miss = set(optional)
    missing = [key for key in expected if key not in weights and key not in may_miss]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{where}: {prefix}{missing[0]}{more} is missing")
    unexpected = [key for key in weights if key not in expected]
    if unexpected:
        more = f" and {len(unexpected) - 1} more" if len(unexpected) > 1 else ""
        raise InputError(f"{where}: unexpected key {prefix}{unexpected[0]}{more}")
    for key, tensor in weights.items():
        if tuple(tensor.shape) != tuple(expected[key]):
            raise InputError(f"{where}: {prefix}{key} has shape {tuple(tensor.shape)}, expected {tuple(expected[key])}")
        if not (tensor.is_floating_point() or tensor.dtype is torch.int64):
            raise InputError(f"{where}: {prefix}{key} has dtype {tensor.dtype}, expected floating-point numbers")
        if tensor.is_floating_point() and not _finite(tensor):
            raise InputError(f"{where}: {prefix}{key} contains NaN or infinity; the checkpoint is damaged")


def _finite(tensor: Tensor) -> bool:
    """In one pass, without a copy: aminmax returns NaN for a tensor that contains NaN."""
    return tensor.is_meta or not tensor.numel() or bool(torch.isfinite(torch.stack(tensor.aminmax())).all())


def load_into(module: nn.Module, weights: Mapping[str, Tensor], where: str, *, prefix: str = "") -> None:
    """Load checked weights into a module (usually on the meta device), as float32. Raises InputError."""
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    check_state_dict(weights, expected, where, prefix=prefix)
    floats = {
        key: value.detach().to(torch.float32) if value.is_floating_point() else value for key, value in weights.items()
    }
    module.load_state_dict(floats, assign=True)
    module.eval().requires_grad_(False)


def matrix(weights: Mapping[str, Tensor], key: str, where: str, *, prefix: str = "") -> tuple[int, int]:
    """The two sizes of `weights[key]`. Raises InputError, with `prefix` + key, if it is missing or no matrix."""
    tensor = weights.get(key)
    if tensor is None:
        raise InputError(f"{where}: {prefix}{key} is missing")
    if tensor.dim() != 2:
        raise InputError(f"{where}: {prefix}{key} has shape {tuple(tensor.shape)}, expected two sizes")
    return tensor.shape[0], tensor.shape[1]


def layer_count(weights: Iterable[str], pattern: str) -> int:
    """The number of layers in the keys: one more than the highest number in `pattern`'s group."""
    numbers = [int(match[1]) for key in weights if (match := re.match(pattern, key))]
    return max(numbers, default=-1) + 1
