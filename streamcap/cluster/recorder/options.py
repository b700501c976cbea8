"""`RecorderOptions`: where a recorder writes, and how much it keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from streamcap.errors import InputError
from streamcap.streams.options import prepare_directory
from streamcap.streams.storage.file_rotation import RotationOptions


@dataclass(frozen=True, slots=True)
class RecorderOptions:
    """Checked once. Raises InputError."""

    out: Path
    """Directory of NAME.srt, NAME.vtt and NAME.jsonl; created if it does not exist."""
    rotation: RotationOptions = field(default_factory=RotationOptions)
    """Of `NAME.jsonl`."""
    subtitle_window: float = 3600.0
    """Seconds of the rolling subtitle files."""

    def __post_init__(self) -> None:
        if not 0 < self.subtitle_window < math.inf:
            raise InputError(f"--subtitle-window {self.subtitle_window:g}: seconds, above 0")
        prepare_directory(self.out)
