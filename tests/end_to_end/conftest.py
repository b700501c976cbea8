from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.programs import require_gstreamer
from testbed.rtsp.camera import Clip, RtspServer


@pytest.fixture
def cameras() -> Iterator[RtspServer]:
    """A real RTSP server with three cameras that show drawn scenes of two seconds in 720p H.264."""
    require_gstreamer()
    with RtspServer(Clip(seed=1, scenes=8, seconds=2.0), paths=("door", "yard", "gate")) as server:
        yield server
