"""`StreamDeps`: what a stream needs from the rest of the service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from streamcap.captions.hub import Hub
from streamcap.media.frame import Frame, Pixels, Sample
from streamcap.media.sources.base import Source
from streamcap.streams.options import StreamOptions

Convert = Callable[[list[Frame]], Pixels]


@dataclass(frozen=True, slots=True)
class StreamDeps:
    options: StreamOptions
    hub: Hub
    open_source: Callable[[str], Source]
    convert: Convert
    submit: Callable[[Sample], None]
    """Submit a sample to the engine. From any thread."""
    clip_length: int | None
    """Frames of a sample, spread over `options.clip_seconds`; None: only the newest frame."""
