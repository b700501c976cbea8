"""The service while its model loads: alive, not ready, and not deaf to signals."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from streamcap.engine.change_gate import ChangeGateOptions
from streamcap.engine.engine import EngineOptions
from streamcap.engine.model_settings import ModelSettings
from streamcap.errors import InputError
from streamcap.server.http.server import listen
from streamcap.server.options import ServerOptions
from streamcap.service.app import ServeOptions, _background, serve_streams
from streamcap.streams.options import StreamOptions
from testbed.timeouts import TIMEOUT_FACTOR

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from streamcap.captioner import Captioner

OPTIONS = ServeOptions(
    sources=[("door", "scenes:")],
    stream_options=StreamOptions(),
    server=ServerOptions(port=0),
    engine=EngineOptions(ChangeGateOptions(threshold=0.02)),
    models={"mini": ModelSettings()},
)


def test_loading_service_is_alive_not_ready_and_stoppable() -> None:
    # In a process of its own: the signal is for the service, not for what other tests have left running.
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.service.test_app"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_FACTOR,
    )
    assert done.returncode == 0, done.stderr


async def alive_while_loading() -> None:
    loaded = threading.Event()

    def load(_settings: ModelSettings) -> Captioner:
        loaded.wait(TIMEOUT_FACTOR)
        raise InputError("nobody waits for it any more")

    with listen(OPTIONS.server) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        serving = asyncio.create_task(serve_streams(OPTIONS, load, listener))
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=TIMEOUT_FACTOR) as http:
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.get("/")).status_code == 200
            early = [await http.get(path) for path in ("/readyz", "/captions/door", "/streams")]
            early.append(await http.post("/streams", json={"name": "yard", "url": "rtsp://yard/1"}))
            assert [answer.status_code for answer in early] == [503] * 4
            assert [answer.headers.get("retry-after") for answer in early[1:]] == ["1"] * 3
            assert "loading" in early[1].json()["detail"]
            assert "streamcap_ready 0.0" in (await http.get("/metrics")).text
            # A client that gives up where a stream is unknown must not get that answer.
            with pytest.raises(InvalidStatus) as refused:
                await connect(f"ws://{address}/captions?stream=door").__aenter__()
            assert refused.value.response.status_code == 503
        os.kill(os.getpid(), signal.SIGHUP)
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=TIMEOUT_FACTOR) as http:
            assert (await http.get("/healthz")).status_code == 200
        os.kill(os.getpid(), signal.SIGTERM)
        assert await asyncio.wait_for(serving, TIMEOUT_FACTOR) is False
    loaded.set()


async def test_failed_model_load_stops_service_with_reason() -> None:
    def load(_settings: ModelSettings) -> Captioner:
        raise InputError("no such model")

    with listen(OPTIONS.server) as listener, pytest.raises(InputError, match="no such model"):
        await asyncio.wait_for(serve_streams(OPTIONS, load, listener), TIMEOUT_FACTOR)


async def test_failed_background_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise OSError("no space left")

    await asyncio.wait((_background(fail(), "retention"),))
    assert [(record.getMessage(), str(record.exc_info[1])) for record in caplog.records if record.exc_info] == [
        ("retention failed", "no space left")
    ]


if __name__ == "__main__":
    asyncio.run(alive_while_loading())
