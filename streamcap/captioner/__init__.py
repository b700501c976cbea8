"""Image captioning: vision encoders, mappings to a prefix, GPT-2 with a KV cache, and decoding.

Public names are imported lazily: importing `streamcap.captioner` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamcap.captioner.options import SearchOptions
from streamcap.captioner.result import Result

if TYPE_CHECKING:
    from streamcap.captioner.captioner import Captioner
    from streamcap.captioner.load import load_captioner

__all__ = ["Captioner", "Result", "SearchOptions", "load_captioner"]


def __getattr__(name: str) -> object:
    if name == "Captioner":
        from streamcap.captioner.captioner import Captioner

        return Captioner
    if name == "load_captioner":
        from streamcap.captioner.load import load_captioner

        return load_captioner
    raise AttributeError(f"module 'streamcap.captioner' has no attribute {name!r}")
