"""`python -m testbed.fake_model serve …`: the real command with a fast model without torch.

The text is a hash of the image, so that another scene gives another caption. STREAMCAP_FAKE_ROW_SECONDS makes each
decoded row of a batch so much slower.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamcap.captioner.decoding.drafts import DraftStatistics
from streamcap.cli import main
from streamcap.engine.model_settings import ModelSettings
from streamcap.image_spec import ImageSpec
from streamcap.service import models
from streamcap.service.models import LoadedModel

DECODE_SECONDS = 0.03
ROW_SECONDS = float(os.environ.get("STREAMCAP_FAKE_ROW_SECONDS", "0"))
WORDS = ("a man", "a dog", "a red car", "a tree", "two birds", "a house", "the sea", "a clock")


@dataclass(frozen=True)
class FakeResult:
    text: str
    logprob: float = -0.5
    confidence: float | None = None


class FakeModel:
    """Embeds an image as 4 × 4 mean colors."""

    def __init__(self) -> None:
        self.draft_statistics = DraftStatistics()
        self.decode_seconds, self.row_seconds = DECODE_SECONDS, ROW_SECONDS

    def encode(self, pixels: Any) -> Any:
        rows = pixels.astype(np.float32)
        return rows.reshape(len(rows), 4, 8, 4, 8, 3).mean((2, 4)).reshape(len(rows), -1)

    def features(self, embeddings: Any) -> Any:
        centered = embeddings - embeddings.mean(1, keepdims=True) + 1e-3
        return (centered / np.linalg.norm(centered, axis=1, keepdims=True)).astype(np.float32)

    def decode(
        self,
        embeddings: Any,
        *,
        streams: Sequence[str],
        on_text: Callable[[int, list[int]], None] | None = None,
        prompts: object = None,
    ) -> Sequence[FakeResult]:
        texts = [self._text(row) for row in embeddings]
        for words in range(1, 4):
            time.sleep((self.decode_seconds + self.row_seconds * len(texts)) / 3)
            for row, text in enumerate(texts):
                if on_text is not None:
                    on_text(row, list(" ".join(text.split()[: 2 * words]).encode()))
        return [FakeResult(text) for text in texts]

    def text(self, tokens: list[int]) -> str:
        return bytes(tokens).decode()

    def _text(self, row: Any) -> str:
        digest = zlib.crc32((row // 16).astype(np.uint8).tobytes())
        return " and ".join(WORDS[digest >> shift & 7] for shift in (0, 3, 6))


class FakeCaptioner:
    info = {"family": "fake"}  # noqa: RUF012
    clip_length = None
    image_spec = ImageSpec(width=32, height=32)


def load(_settings: ModelSettings, _load: Callable[[ModelSettings], object]) -> LoadedModel:
    return LoadedModel(FakeCaptioner(), FakeModel())  # type: ignore[arg-type]


if __name__ == "__main__":
    models.load_model = load  # type: ignore[assignment]
    main()
