"""A model with known captions and embeddings, made from the color of the image."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamcap.engine.outcome import Outcome
from streamcap.media.frame import Sample
from testbed.timeouts import TIMEOUT_FACTOR


@dataclass(frozen=True)
class MadeResult:
    text: str
    logprob: float = -0.5
    confidence: float | None = None


class ColorModel:
    """Embeds an image as its mean color; its caption is `color R G B`. Can block, and can fail."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.decoded: list[int] = []
        self.prompts: Any = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.fail_when: Callable[[np.ndarray], str | None] = lambda pixels: None

    def encode(self, pixels: Any) -> np.ndarray:
        self.batches.append(len(pixels))
        self.entered.set()
        assert self.gate.wait(TIMEOUT_FACTOR)
        if (message := self.fail_when(pixels)) is not None:
            raise RuntimeError(message)
        return pixels.reshape(len(pixels), -1, 3).mean(1)

    def features(self, embeddings: Any) -> np.ndarray:
        rows = embeddings.astype(np.float32) + 1.0
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def decode(
        self, embeddings: Any, *, streams: Sequence[str], on_text: Any = None, prompts: Any = None
    ) -> Sequence[MadeResult]:
        self.prompts = prompts
        self.decoded.append(len(embeddings))
        assert len(streams) == len(embeddings)
        texts = ["color " + " ".join(str(int(value)) for value in row) for row in embeddings]
        if on_text is not None:
            for row in range(len(texts)):
                on_text(row, [ord(letter) for letter in texts[row][:6]])
        return [MadeResult(text) for text in texts]

    def text(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))


class Outcomes:
    """Collects what an engine delivers; waits for states, not for time."""

    def __init__(self) -> None:
        self.all: list[Outcome] = []
        self._changed = threading.Condition()

    def __call__(self, outcomes: list[Outcome]) -> None:
        with self._changed:
            self.all.extend(outcomes)
            self._changed.notify_all()

    def wait(self, count: int) -> list[Outcome]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.all) >= count, timeout=TIMEOUT_FACTOR), self.all
            return list(self.all)


def sample(
    stream: str,
    color: tuple[int, int, int],
    start: float = 0.0,
    epoch: int = 0,
    size: int = 4,
    model: str = "",
    encoder: str | None = None,
) -> Sample:
    return Sample(
        stream=stream,
        pixels=np.full((size, size, 3), color, np.uint8),
        epoch=epoch,
        start=start,
        captured_at=1000 + start,
        captured_at_source="arrival",
        arrived=start,
        submitted=start,
        model=model,
        encoder=encoder,
    )
