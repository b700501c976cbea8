"""Counters of the engine and of its models, since the start. Each has one writer thread; any thread may read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from streamcap.captioner.decoding.drafts import DraftStatistics


@dataclass(slots=True)
class ModelStatistics:
    """One local model."""

    samples: int = 0
    """Samples that its encoder has seen, those for remote models included."""
    batches: int = 0
    captioned: int = 0
    decode_skipped: int = 0
    """Samples whose image had not changed."""
    duplicates: int = 0
    """Samples decoded to the same text as the last final."""
    unconfirmed: int = 0
    """Samples whose new text the next sample had to confirm."""
    failed: int = 0
    busy_seconds: float = 0.0
    """Time on the device thread."""
    drafts: DraftStatistics = field(default_factory=DraftStatistics)
    """The model's own counters of passes and draft tokens."""


@dataclass(slots=True)
class RemoteStatistics:
    """One remote model."""

    sent: int = 0
    """Requests."""
    saved: int = 0
    """Samples without a request, since their image had not changed."""
    failed: int = 0
    """Requests without a usable answer."""
    held_back: int = 0
    """Samples without a request, since the server had failed shortly before."""
    fallbacks: int = 0
    """Samples that the fallback captioned."""
    captioned: int = 0
    duplicates: int = 0
    unconfirmed: int = 0
    tokens_in: int = 0
    """Of prompts and images, as the server counts them; servers may leave this out."""
    tokens_out: int = 0
    seconds: float = 0.0
    """Sum of the durations of all requests."""
    in_flight: int = 0
    """Requests at present."""
    superseded: dict[str, int] = field(default_factory=dict)
    """By stream: samples that a newer one replaced while they waited for the server."""


@dataclass(slots=True)
class EngineStatistics:
    models: dict[str, ModelStatistics] = field(default_factory=dict)
    remotes: dict[str, RemoteStatistics] = field(default_factory=dict)
    superseded: dict[str, int] = field(default_factory=dict)
    """By stream: samples replaced by a newer one before any model saw them."""

    def superseded_of(self, stream: str) -> int:
        """Samples of `stream` that a newer one replaced before a model captioned them."""
        return self.superseded.get(stream, 0) + sum(one.superseded.get(stream, 0) for one in self.remotes.values())

    @property
    def samples(self) -> int:
        return sum(model.samples for model in self.models.values())

    @property
    def batches(self) -> int:
        return sum(model.batches for model in self.models.values())

    @property
    def captioned(self) -> int:
        return sum(model.captioned for model in self._all)

    @property
    def decode_skipped(self) -> int:
        local = sum(model.decode_skipped for model in self.models.values())
        return local + sum(remote.saved for remote in self.remotes.values())

    @property
    def duplicates(self) -> int:
        return sum(model.duplicates for model in self._all)

    @property
    def unconfirmed(self) -> int:
        return sum(model.unconfirmed for model in self._all)

    @property
    def failed(self) -> int:
        return sum(model.failed for model in self._all)

    @property
    def busy_seconds(self) -> float:
        return sum(model.busy_seconds for model in self.models.values())

    @property
    def drafts(self) -> DraftStatistics:
        """The sum over all models."""
        total = DraftStatistics()
        for model in self.models.values():
            total.passes += model.drafts.passes
            total.tokens += model.drafts.tokens
            total.proposed += model.drafts.proposed
            total.accepted += model.drafts.accepted
            total.dropped += model.drafts.dropped
        return total

    @property
    def _all(self) -> Iterable[ModelStatistics | RemoteStatistics]:
        return (*self.models.values(), *self.remotes.values())
