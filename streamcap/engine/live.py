"""`LiveModel`: a captioner as the engine wants it: greedy, warmed up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from streamcap.engine.change_gate import Features
from streamcap.engine.engine import Decoded
from streamcap.media.frame import Pixels

if TYPE_CHECKING:
    from streamcap.captioner import Captioner


class LiveModel:
    """Greedy search: beams cannot be shown while they grow."""

    def __init__(self, captioner: Captioner) -> None:
        from streamcap.captioner import SearchOptions

        self._captioner = captioner
        self._search = SearchOptions()

    def warm_up(self) -> None:
        """Caption a grey image, so that the first real one does not pay for lazy initialisation."""
        captioner = self._captioner
        width, height = captioner.image_spec.size
        shape = (1, height, width, 3) if captioner.clip_length is None else (1, captioner.clip_length, height, width, 3)
        self.decode(self.encode(np.full(shape, 127, np.uint8)))

    def encode(self, pixels: Pixels) -> Any:
        return self._captioner.encode(pixels)

    def features(self, embeddings: Any) -> Features:
        return self._captioner.features(embeddings)

    def decode(self, embeddings: Any, *, on_text: Callable[[int, list[int]], None] | None = None) -> Sequence[Decoded]:
        return self._captioner.decode(embeddings, self._search, on_text=on_text)

    def text(self, tokens: list[int]) -> str:
        return self._captioner.text(tokens)
