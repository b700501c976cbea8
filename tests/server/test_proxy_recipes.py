"""The configurations of docs/proxy.md, run with nginx and Caddy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from testbed.ports import free_port
from testbed.programs import require_program
from testbed.timeouts import TIMEOUT_FACTOR
from tests.server.conftest import Server, Start, receive
from tests.server.http.test_path_prefix import certificate

pytestmark = pytest.mark.e2e

DOCUMENT = Path(__file__).parents[2] / "docs/proxy.md"


def recipe(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return block


@contextlib.asynccontextmanager
async def running(directory: Path, port: int, *command: str | Path) -> AsyncIterator[None]:
    """Run `command` until the end of the block; it listens on `port` when entered."""
    environment = {**os.environ, "HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL, env=environment)
    try:
        async with asyncio.timeout(TIMEOUT_FACTOR):
            while True:
                assert process.returncode is None
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    await writer.wait_closed()
                    break
                await asyncio.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def nginx(directory: Path, port: int, there: int) -> list[str | Path]:
    cert, key = certificate(directory)
    text = recipe("nginx").replace("listen 443", f"listen 127.0.0.1:{port}").replace(":8642", f":{there}")
    text = text.replace("/etc/ssl/home.example/fullchain.pem", str(cert))
    text = text.replace("/etc/ssl/home.example/privkey.pem", str(key))
    temporary = "".join(
        f"{name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = directory / "nginx.conf"
    config.write_text(
        f"daemon off; pid {directory}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{text} }}\n"
    )
    return [require_program("nginx", "it runs the recipe"), "-c", config, "-e", "stderr", "-p", directory]


def caddy(directory: Path, port: int, there: int) -> list[str | Path]:
    cert, key = certificate(directory)
    text = recipe("caddyfile").replace("home.example {", f"https://127.0.0.1:{port} {{\n    tls {cert} {key}")
    config = directory / "Caddyfile"
    options = f"{{\n    admin off\n    auto_https off\n    storage file_system {directory}\n}}\n"
    config.write_text(options + text.replace(":8642", f":{there}"))
    return [require_program("caddy", "it runs the recipe"), "run", "--adapter", "caddyfile", "--config", config]


@pytest.mark.parametrize("proxy", [nginx, caddy])
async def test_recipe_serves_under_prefix_with_tls(start: Start, tmp_path: Path, proxy) -> None:
    server: Server = await start(publish_tokens=frozenset({"t"}), root_path="/cams")
    door = await server.streams.add("door", "rtsp://door")
    port = free_port()
    async with running(tmp_path, port, *proxy(tmp_path, port, server.port)):
        trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        url, headers = f"https://127.0.0.1:{port}", {"Authorization": "Bearer t", "Origin": f"https://127.0.0.1:{port}"}
        async with httpx.AsyncClient(base_url=url, verify=trust, headers=headers, timeout=TIMEOUT_FACTOR) as http:
            assert (await http.get("/cams/")).headers["content-type"].startswith("text/html")
            added = await http.post("/cams/streams", json={"name": "yard", "url": "rtsp://yard"})
            assert added.headers["location"] == "/cams/streams/yard"
            assert (await http.get("/cams/streams/")).headers["location"] == f"{url}/cams/streams"
            async with http.stream("GET", "/cams/captions/door") as events:
                door.final("a man opens a door")
                async for line in events.aiter_lines():
                    if "a man opens a door" in line:
                        break
        socket_url = f"wss://127.0.0.1:{port}/cams/captions?stream=door"
        async with connect(socket_url, ssl=trust, additional_headers=headers) as viewer:
            assert (await receive(viewer, 1))[0]["type"] == "hello"
