"""`StreamDeps`: what a stream needs from the rest of the service."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from streamcap.captions.hub import Hub
from streamcap.engine.served_model import ServedModels
from streamcap.media.frame import Sample
from streamcap.media.sources.address import HostScope
from streamcap.media.sources.base import Source
from streamcap.media.timing.phases import SamplingPhases
from streamcap.streams.options import StreamOptions
from streamcap.streams.storage.caption_file_writer import CaptionFileWriter
from streamcap.streams.storage.caption_store import CaptionStore


@dataclass(slots=True)
class StreamDeps:
    options: StreamOptions
    """Replaced as a whole when the service uses others."""
    hub: Hub
    open_source: Callable[[str, HostScope], Source]
    """The source of a URL and of the hosts that it may connect to; not opened yet."""
    models: ServedModels
    submit: Callable[[Sample], None]
    """Submit a sample to the engine. From any thread."""
    store: Callable[[str], CaptionStore] | None = None
    """Where the events of a stream are kept before they are published; None: in files of `options.out`, if given."""
    phases: SamplingPhases = field(default_factory=SamplingPhases)
    """When within their intervals the streams are sampled."""

    def frame_spacing(self, model: str | None) -> float:
        """Most seconds between the frames of a clip for `model`; infinite if a sample is the newest frame."""
        clip_length = self.models.get(model).clip_length
        return math.inf if clip_length is None else self.options.clip_seconds / clip_length

    def open_store(self, name: str) -> CaptionStore | None:
        """The store of stream `name`; None if its events are not kept."""
        if self.store is not None:
            return self.store(name)
        return None if self.options.out is None else CaptionFileWriter(self.options.out, name, self.options.rotation)
