"""Subtitle files as ffprobe reads them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from testbed.programs import require_program


def subtitle_times(path: Path) -> list[tuple[int, int]]:
    """Start and end of every cue in ms; fails where ffprobe finds anything to say."""
    ffprobe = require_program("ffprobe", "it reads the subtitle files")
    done = subprocess.run(
        [ffprobe, "-v", "error", "-of", "json", "-show_entries", "packet=pts_time,duration_time", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{path}: {done.stderr}"
    packets = json.loads(done.stdout)["packets"]
    return [
        (round(1000 * float(p["pts_time"])), round(1000 * (float(p["pts_time"]) + float(p["duration_time"]))))
        for p in packets
    ]
