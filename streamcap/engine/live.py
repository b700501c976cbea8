"""`LiveModel`: adapts a captioner to the engine: greedy search, warm-up, earlier captions as drafts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from streamcap.engine.change_gate import Features
from streamcap.engine.engine import Decoded
from streamcap.media.frame import Pixels

if TYPE_CHECKING:
    from streamcap.captioner import Captioner
    from streamcap.captioner.decoding.drafts import DraftStatistics


class LiveModel:
    """Uses greedy search, because beams give no interim text. A stream's earlier captions are the draft of its next
    one, which takes fewer passes than it has tokens if the draft is right (see `drafts`)."""

    def __init__(self, captioner: Captioner) -> None:
        from streamcap.captioner import SearchOptions
        from streamcap.captioner.decoding.drafts import DraftHistory

        self._captioner = captioner
        self._parameters: int = captioner.info["parameters"]
        self._search = SearchOptions()
        self._history = DraftHistory()
        # Other models describe what they were trained for; a stream's prompt is for a model that it may have later.
        self._takes_prompts = "prompts" in inspect.signature(captioner.decode).parameters

    @property
    def draft_statistics(self) -> DraftStatistics:
        """Passes, tokens and draft tokens since the start. Any thread may read."""
        return self._captioner.draft_statistics

    def warm_up(self) -> None:
        """Caption a gray image, so that lazy initialization does not delay the first caption."""
        captioner = self._captioner
        width, height = captioner.image_spec.size
        shape = (1, height, width, 3) if captioner.clip_length is None else (1, captioner.clip_length, height, width, 3)
        with self._limited(1):
            captioner.decode(self.encode(np.full(shape, 127, np.uint8)), self._search)

    def encode(self, pixels: Pixels) -> Any:
        with self._limited(len(pixels)):
            return self._captioner.encode(pixels)

    def features(self, embeddings: Any) -> Features:
        return self._captioner.features(embeddings)

    def decode(
        self,
        embeddings: Any,
        *,
        streams: Sequence[str],
        on_text: Callable[[int, list[int]], None] | None = None,
        prompts: Sequence[str | None] | None = None,
    ) -> Sequence[Decoded]:
        with self._limited(len(streams)):
            if prompts is not None and self._takes_prompts:
                return self._captioner.decode(embeddings, self._search, on_text=on_text, prompts=prompts)  # type: ignore[call-arg]
            drafts = [self._history.stream(name) for name in streams]
            results = self._captioner.decode(embeddings, self._search, on_text=on_text, drafts=drafts)
        for draft, result in zip(drafts, results, strict=True):
            draft.add(result.tokens)
        return results

    def _limited(self, rows: int) -> AbstractContextManager[None]:
        """At most as many threads as pay for `rows` images at once."""
        from streamcap.captioner.kernels.threads import limited, useful_threads

        return limited(useful_threads(self._parameters, rows))

    def text(self, tokens: list[int]) -> str:
        return self._captioner.text(tokens)
