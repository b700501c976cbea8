"""The known models, and where their files are: in the package, on disk or on the Hugging Face hub."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from streamcap.atomic import make_directory
from streamcap.captioner.reachability import is_reachable
from streamcap.errors import InputError
from streamcap.extras import install_command
from streamcap.local_path import find_local

log = logging.getLogger(__name__)

GPT2_VOCABULARY = 50257
_HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+$", re.ASCII)
_WEIGHTS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
_PICKLES = ("*.bin", "*.pt", "*.pth")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A short name for a published captioner."""

    name: str
    description: str
    license: str
    hub: str | None = None
    """Repository on the hub."""
    file: str | None = None
    """The checkpoint's file in the repository; None: the whole repository."""
    drive: str | None = None
    """Id of a Google Drive file."""
    megabytes: int = 0
    """Approximate size of the download."""
    good_for: str = ""
    """The kind of images it was trained on."""
    quality: str = "no figure published"
    """A published or measured score, with its data set."""
    speed: str = "not measured here"
    """Milliseconds for one 720p frame on one CPU core, from the frame to its caption (see docs/speed.md)."""

    @property
    def source(self) -> str:
        """Where it is downloaded from; empty for the embedded model."""
        if self.hub is not None:
            return f"{self.hub}/{self.file}" if self.file else self.hub
        return f"Google Drive {self.drive}" if self.drive else ""


MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry(
            "mini",
            "our own small model, in the package",
            "MIT",
            good_for="streets, animals, rooms, people outdoors",
            quality="CIDEr 0.418 on Flickr8k",
            speed="29 (int8), 43 (fp32)",
        ),
        ModelEntry(
            "clipcap-coco",
            "ClipCap on COCO: ViT-B/32, MLP, GPT-2",
            "MIT (code); weights not stated",
            hub="akhaliq/CLIP-prefix-captioning-COCO-weights",
            file="coco_weights.pt",
            megabytes=636,
            good_for="everyday scenes indoors and outdoors, in careful sentences",
            quality="CIDEr 1.08 on COCO (paper)",
        ),
        ModelEntry(
            "clipcap-conceptual",
            "ClipCap on Conceptual Captions: ViT-B/32, MLP, GPT-2",
            "MIT (code); weights not stated",
            hub="akhaliq/CLIP-prefix-captioning-conceptual-weights",
            file="conceptual_weights.pt",
            megabytes=636,
            good_for="images of all kinds from the web, in looser sentences",
            quality="CIDEr 0.87 on Conceptual (paper)",
        ),
        ModelEntry(
            "vit-gpt2",
            "ViT + GPT-2 with cross-attention",
            "Apache-2.0",
            hub="nlpconnect/vit-gpt2-image-captioning",
            megabytes=982,
            good_for="everyday scenes, in short sentences",
        ),
        ModelEntry(
            "videocaptioner-s",
            "VideoCaptionerWithClip, small: ViT-B/32 + GPT-2",
            "not stated",
            drive="1pSQruQyg8KJq6VmzhMLFbT_VaHJMdlWF",
            megabytes=1000,
            good_for="people and what they do",
        ),
        ModelEntry(
            "videocaptioner-l",
            "VideoCaptionerWithClip, large: ViT-L/14 + GPT-2 medium",
            "not stated",
            drive="1Gh32arzhW06C1ZJyzcJSSfdJDi3RgWoG",
            megabytes=2900,
            good_for="people and what they do, in more detail",
        ),
    )
}


def describe_model(name: str, family: str) -> str:
    """One line: the model's name and what it was trained for. family: the checkpoint's, for models not listed here."""
    known = MODELS.get(name)
    if known is None:
        return f"model {name}: a {family} checkpoint; it describes what it was trained on"
    other = "; for other cameras --model clipcap-coco" if name == "mini" else ""
    return f"model {name}: {known.good_for}{other}"


def mini_directory() -> Path:
    """The embedded model's directory in the package."""
    return Path(__file__).parent / "mini"


def offline() -> bool:
    """Whether downloads are disabled (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)."""
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in _OFFLINE)


def find_checkpoint(name: str) -> Path:
    """The file or directory of the model called `name`, downloaded if needed. Raises InputError."""
    if name == "mini":
        if not (mini_directory() / "config.json").is_file():
            raise InputError(f"mini: the embedded model is missing from the package ({mini_directory()})")
        return mini_directory()
    if name.startswith("openai:"):
        raise InputError(f"{name}: a model of a server; use it with --model-url")
    if not name:
        raise InputError("the model's name is empty; `streamcap models` lists the names")
    known = MODELS.get(name)
    if known is None:
        if (path := find_local(name)) is not None:
            return path
        if _HUB_NAME.match(name) and Path(name).suffix not in {".pt", ".pth", ".bin", ".safetensors", ".json"}:
            return download(name, None)
        raise InputError(f"{name}: no such file, directory or model; `streamcap models` lists the names")
    if known.drive is not None:
        return _from_drive(known)
    return download(known.hub or name, known.file)


def cached(entry: ModelEntry) -> Path | None:
    """Where the model's files are on this machine; None if they have to be downloaded."""
    if entry.name == "mini":
        return mini_directory() if (mini_directory() / "config.json").is_file() else None
    if entry.drive is not None:
        file = _drive_file(entry)
        return file if file.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    for candidate in (entry.file,) if entry.file else ("model.safetensors", "pytorch_model.bin"):
        file_in_cache = try_to_load_from_cache(entry.hub or "", candidate)
        if isinstance(file_in_cache, str):
            return Path(file_in_cache) if entry.file else Path(file_in_cache).parent
    return None


def cache_directory() -> Path:
    """Where files from elsewhere than the hub are cached: STREAMCAP_CACHE, else the user's cache directory."""
    configured = os.environ.get("STREAMCAP_CACHE")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamcap"


def _drive_file(entry: ModelEntry) -> Path:
    return cache_directory() / f"{entry.name}.pt"


def _from_drive(entry: ModelEntry) -> Path:
    file = _drive_file(entry)
    if file.is_file():
        return file
    by_hand = f"download https://drive.google.com/uc?id={entry.drive} on another machine and copy it to {file}"
    if offline():
        raise InputError(f"{entry.name}: not on this machine, and downloads are disabled (HF_HUB_OFFLINE); {by_hand}")
    try:
        import gdown
    except ImportError:
        raise InputError(f"{entry.name}: {install_command('drive')} to download it, or {by_hand}") from None
    if not is_reachable("https://drive.google.com"):
        raise InputError(f"{entry.name}: Google Drive is unreachable; {by_hand}")
    make_directory(file.parent)
    partial = file.with_suffix(".part")
    try:
        output = gdown.download(id=entry.drive, output=str(partial), resume=True)
    except Exception as error:  # gdown raises many types, for changed pages too
        log.debug("gdown failed", exc_info=True)
        raise InputError(f"{entry.name}: the download failed ({type(error).__name__}); {by_hand}") from None
    if output is None or not partial.is_file():
        raise InputError(f"{entry.name}: the download failed; {by_hand}")
    partial.replace(file)
    return file


def find_vision(name: str) -> Path:
    """The directory of a CLIP in transformers' layout: a path, or a name on the hub. Raises InputError."""
    return find_directory(name, "vision tower")


def find_tokenizer(name: str) -> Path:
    """A tokenizer's directory or file: a path, or a name on the hub. Raises InputError."""
    path = find_local(name)
    if path is not None:
        return path
    if _HUB_NAME.match(name) or name == "gpt2":
        return download(name, None, patterns=("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"))
    raise InputError(f"{name}: no such tokenizer directory or hub name")


def find_directory(name: str, description: str) -> Path:
    """A directory in transformers' layout: a path, or a name on the hub. description: what it holds, for errors.

    Raises InputError.
    """
    path = find_local(name)
    if path is not None and path.is_dir():
        return path
    if path is not None:
        raise InputError(f"{name}: the {description} is a directory (config.json and weights), not a file")
    if _HUB_NAME.match(name):
        return download(name, None)
    raise InputError(f"{name}: no such {description} directory or hub name")


def download(repository: str, file: str | None, *, patterns: tuple[str, ...] | None = None) -> Path:
    """One file, or a model's files, from the hub's cache or the hub; resumable, with a progress bar.

    Raises InputError with a one-line message that says what is missing and what to do.
    """
    from huggingface_hub import constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    # Without a network, huggingface_hub retries for half a minute and prints a line for each retry.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    local = offline() or not is_reachable(constants.ENDPOINT)
    try:
        if file is not None:
            return Path(hf_hub_download(repository, file, local_files_only=local))
        allowed = list(patterns or _WEIGHTS)
        directory = Path(snapshot_download(repository, allow_patterns=allowed, local_files_only=local))
        if patterns is None and not any(directory.glob("*.safetensors")):
            allowed += _PICKLES
            directory = Path(snapshot_download(repository, allow_patterns=allowed, local_files_only=local))
    except RepositoryNotFoundError:
        raise InputError(f"{repository}: no such model on the hub (or it is private)") from None
    except HFValidationError as error:
        raise InputError(f"{repository}: {str(error).splitlines()[0]}") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise InputError(_missing(repository, file, error, local)) from None
    return directory


def _missing(repository: str, file: str | None, error: Exception, local: bool) -> str:
    description = f"{repository}/{file}" if file else repository
    if offline():
        reason = "downloads are disabled (HF_HUB_OFFLINE)"
    else:
        reason = "the hub is unreachable" + ("" if local else f" ({type(error).__name__})")
    return (
        f"{description}: not in the cache, and {reason}; download it on another machine and give the path of the file "
        "or directory"
    )
