"""When a sample was seen, and how long its caption took, as the caption track takes it."""

from __future__ import annotations

import time

from streamcap.captions.caption import Latency
from streamcap.captions.track import SampleTime
from streamcap.engine.outcome import Times
from streamcap.media.frame import Sample


def sample_time(sample: Sample) -> SampleTime:
    """When the camera saw it, and the model that captions it."""
    return SampleTime(sample.epoch, sample.start, sample.captured_at, sample.captured_at_source, sample.model)


def latency_of(sample: Sample, times: Times, first: Sample | None = None) -> Latency:
    """Latency of `sample`; `total` starts at the arrival of `first` if a second sample confirmed the caption."""
    return Latency(
        ingest=1000 * (sample.submitted - sample.arrived),
        queue=1000 * (times.taken - sample.submitted),
        encode=1000 * (times.encoded - times.taken),
        decode=1000 * (times.decoded - times.encoded),
        total=1000 * (time.monotonic() - (first or sample).arrived),
    )
