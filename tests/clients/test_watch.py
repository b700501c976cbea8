"""`streamcap-watch` and the examples, run as programs."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys

import pytest
from streamcap_client import Caption, Gap, Status
from streamcap_client.watch import NewMessages, Screen

from testbed.browser import chromium
from testbed.programs import require_program
from testbed.timeouts import TIMEOUT_FACTOR
from tests.clients.conftest import CLIENTS
from tests.server.conftest import Server, until

pytestmark = pytest.mark.slow

LATENCY = {"total": 1.0}


def caption(text: str, *, final: bool) -> Caption:
    return Caption("door", 1, "door-1", 1, final, 0, 3725.4, 3726.4, text, None, "", "arrival", LATENCY)


def test_interim_caption_updates_in_place() -> None:
    screen = Screen(20)
    assert screen.draw(caption("a man opens a door", final=False)) == "\r\x1b[K…  door  a man open"
    assert screen.draw(caption("a man opens a door", final=True)) == "\r\x1b[K01:02:05  door  a man opens a door\n"
    assert screen.draw(Gap("door", 2, 4)).endswith("door: 3 events missed\n")


def test_redirected_output_has_finals_and_status_only() -> None:
    screen = Screen(0)
    assert screen.draw(caption("a man", final=False)) == ""
    assert screen.draw(Status("door", 1, "stalled", "no frame")) == "--  door is stalled: no frame\n"


@pytest.mark.parametrize("program", ["watch", "finals.py", "finals.sh"])
async def test_every_client_prints_finals(server: Server, program: str) -> None:
    match program:
        case "watch":
            command = [sys.executable, "-m", "streamcap_client.watch", server.url]
        case "finals.py":
            command = [sys.executable, str(CLIENTS / "examples" / program), server.url]
        case _:
            require_program("curl", "the shell example uses it")
            command = ["sh", str(CLIENTS / "examples" / program), server.url, "door"]
    environment = {**os.environ, "PYTHONPATH": str(CLIENTS / "python")}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env=environment, start_new_session=True
    )
    assert process.stdout is not None
    try:
        await until(lambda: server.app.state.broadcaster.present == 1)
        server.streams.get("door").final("a man opens a door")
        async with asyncio.timeout(TIMEOUT_FACTOR):
            while b"a man opens a door" not in (line := await process.stdout.readline()):
                assert line, "it ended"
    finally:
        os.killpg(process.pid, 15)
        await process.wait()


@pytest.mark.browser
async def test_javascript_example_follows_feed_in_page(server: Server) -> None:
    async with chromium() as browser:
        page = await browser.new_page()
        printed: list[str] = []
        page.on("console", lambda message: printed.append(message.text))
        await page.goto(f"{server.url}/docs")
        await page.evaluate((CLIENTS / "examples" / "finals.mjs").read_text())
        await until(lambda: server.app.state.broadcaster.present == 1)
        server.streams.get("door").final("a man opens a door")
        await until(lambda: printed == ["door a man opens a door"])


async def test_refusal_is_one_line_with_exit_code_2(server: Server) -> None:
    environment = {**os.environ, "PYTHONPATH": str(CLIENTS / "python")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "streamcap_client.watch", server.url, "--stream", "nobody"),
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    _, errors = await asyncio.wait_for(process.communicate(), TIMEOUT_FACTOR)
    assert process.returncode == 2
    assert errors.decode().count("\n") == 1
    assert "nobody" in errors.decode()


def test_missing_service_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [sys.executable, "-u", "-m", "streamcap_client.watch", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        line = watching.stderr.readline()
        watching.terminate()
    assert line.startswith("streamcap-watch: caption feed: ") and line.endswith("; trying again\n"), line
    assert "Connect call failed" in line


def test_repeated_reason_is_told_once() -> None:
    new = NewMessages()
    shown = [new.filter(logging.makeLogRecord({"msg": reason})) for reason in ("refused", "refused", "timeout")]
    assert shown == [True, False, True]
