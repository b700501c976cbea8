"""streamcap: streaming, real-time captions of what a video shows.

Names resolve lazily, so that `import streamcap` loads neither torch nor libav.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from streamcap.captioner import Captioner, Result, load_captioner

__all__ = ["Captioner", "Result", "__version__", "load_captioner"]


def __getattr__(name: str) -> object:
    if name in ("Captioner", "Result", "load_captioner"):
        import streamcap.captioner

        return getattr(streamcap.captioner, name)
    raise AttributeError(f"module 'streamcap' has no attribute {name!r}")
