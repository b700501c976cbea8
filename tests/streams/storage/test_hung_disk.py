"""Six streams whose files hang, and a seventh that must not be affected: the real service with real FIFOs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from testbed.service import Viewer, wait_until
from tests.chaos.storm import FakeService

pytestmark = pytest.mark.slow

SCENES = "scenes:?size=64x64&rate=2&seconds=1&seed="


class HungViewer(Viewer):
    def hung(self) -> set[str]:
        """The streams with a status that says that the disk hangs."""
        statuses = (m for m in list(self.messages) if m["type"] == "status")
        return {m["stream"] for m in statuses if "does not answer" in m["reason"]}


def test_hung_files_stop_no_other_stream(tmp_path: Path) -> None:
    hung = [f"hung{number}" for number in range(6)]
    sources = [f"{name}={SCENES}{number}" for number, name in enumerate([*hung, "good"])]
    with FakeService(*sources, "--every", "0.5", "--change-threshold", "0", out=tmp_path) as service:
        for name in hung:
            # Like a network disk that is gone: the write never returns.
            fifo = tmp_path / f"{name}.fifo"
            os.mkfifo(fifo)
            fifo.replace(tmp_path / f"{name}.jsonl")
        with HungViewer(service) as viewer:
            viewer.until(lambda: viewer.hung() >= set(hung))
            seen = len(viewer.finals("good"))
            viewer.until(lambda: len(viewer.finals("good")) >= seen + 8)
            lines = [json.loads(line)["id"] for line in (tmp_path / "good.jsonl").read_text().splitlines()]
            assert {m["id"] for m in viewer.finals("good")} <= set(lines)
            for name in ("good", "hung0"):
                assert service.get(f"/streams/{name}/captions.srt")[0] == 200
            wait_until(lambda: service.get("/streams/good/hls/captions.m3u8")[0] == 200)
            status, seconds = service.terminate()
        # 5 s on an idle machine.
        assert seconds < 20.0, service.describe()
        assert status == 1, service.describe()


def test_fifo_at_start_fails_one_stream(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bad.jsonl")
    with FakeService(f"bad={SCENES}1", f"good={SCENES}2", "--every", "0.5", out=tmp_path) as service:
        with HungViewer(service) as viewer:
            viewer.until(lambda: viewer.finals("good"))
        bad, good = json.loads(service.get("/streams")[1])
        assert (bad["state"], good["state"]) == ("failed", "live")
        assert "not a regular file" in bad["reason"]
        assert service.terminate()[0] == 0
