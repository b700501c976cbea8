"""Connections up to the open-file limit leave files for captions and cameras."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from testbed.service import Viewer, wait_until
from tests.chaos.storm import STREAM, FakeService

pytestmark = pytest.mark.slow

MAX_FILES = 100


class FewFilesService(FakeService):
    command = ("sh", "-c", f'ulimit -n {MAX_FILES}; exec "$@"', "sh", *FakeService.command)


@pytest.mark.timeout(180)
def test_silent_sockets_leave_files_for_captions(tmp_path: Path) -> None:
    scenes = "scenes:?size=64x64&rate=5&seconds=0.5"
    with FewFilesService(f"{STREAM}={scenes}", "--every", "0.3", "--change-threshold", "0", out=tmp_path) as service:
        port = int(service.base.rpartition(":")[2])
        with Viewer(service) as viewer, ExitStack() as sockets:
            for _ in range(2 * MAX_FILES):
                idle = sockets.enter_context(socket.socket())
                idle.setblocking(False)
                idle.connect_ex(("127.0.0.1", port))
            wait_until(lambda: any("new connections wait" in line for line in service.errors), service.describe)
            assert len(list(Path(f"/proc/{service.pid}/fd").iterdir())) <= 0.75 * MAX_FILES + 10
            seen = len(viewer.finals())
            viewer.until(lambda: len(viewer.finals()) >= seen + 5)
            filed = [json.loads(line)["id"] for line in (tmp_path / f"{STREAM}.jsonl").read_text().splitlines()]
            assert {final["id"] for final in viewer.finals()} <= set(filed)
            # A camera can still be added: it needs files too.
            assert not any(m["reason"] for m in viewer.messages if m["type"] == "status")
        # After they close, waiting connections are served.
        assert service.get("/healthz")[0] == 200
