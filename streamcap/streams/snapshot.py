"""`StreamSnapshot`: the state of a stream at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """What `GET /streams` and the web page show of a stream."""

    name: str
    url: str
    every: float
    """Seconds between captions, as configured."""
    state: str
    reason: str
    width: int
    height: int
    frames_per_second: float
    codec: str
    epoch: int
    frames: int
    sampled: int
    captions: int
    extended: int
    reconnections: int
    source: dict[str, int]
    last_caption: dict[str, object] | None
    effective_every: float = 0.0
    """Seconds between captions now: more than `every` while the service is overloaded."""
    lag: float = 0.0
    """Seconds by which captions are late because of this machine; 0 unless the stream is live."""
    late: bool = False
    """Whether that is more than 3 s and 3 intervals."""
    caption_age: float | None = None
    """Seconds since the newest captioned frame arrived; null before the first."""
    decode_skipped: int = 0
    """Samples whose image had not changed, so that nothing was decoded. Also counted in `extended`."""
    samples_missed: int = 0
    """Scheduled times for which no frame arrived in time."""
    skips_ahead: int = 0
    """Connections that were given up because too much video waited in them: this machine is too slow."""
    frame_conversion_errors: int = 0
    """Sampled frames that could not be converted."""
    captions_held_back: int = 0
    """Captions not published, because the model was not sure enough (`--min-confidence`)."""
    files_dropped: int = 0
    """Finals that no viewer got, since the disk refused or hung for too long."""
    model: str = ""
    """Name of the model that captions the stream."""
    model_description: str = ""
    """One line: the model's name and what it was trained on."""
    prompt: str | None = None
    """This and the following: the stream's own settings; null is the default of the service."""
    mask: list[list[list[float]]] | None = None
    decode: str | None = None
    min_confidence: float | None = None
    labels: dict[str, str] | None = None
