"""`listen` and `serve`: open-file limit, host names, timeout of request heads."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from streamcap.errors import InputError
from streamcap.server.http import server as http_server
from streamcap.server.options import ServerOptions
from testbed.timeouts import TIMEOUT_FACTOR
from tests.server.conftest import Server, receive

RAISE_LIMIT = """
import resource
from streamcap.server.http import server as http_server
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
http_server.allow_connections()
wanted = http_server.OPEN_FILES if hard == resource.RLIM_INFINITY else min(http_server.OPEN_FILES, hard)
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (wanted, hard)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
http_server.allow_connections()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
"""


@pytest.mark.slow
def test_open_file_limit_is_raised() -> None:
    done = subprocess.run([sys.executable, "-c", RAISE_LIMIT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("host", ["x" * 80, "a..b"])
def test_invalid_host(host: str) -> None:
    with pytest.raises(InputError, match="cannot be resolved") as refused:
        http_server.listen(ServerOptions(host=host, port=0, publish_tokens=frozenset({"t"})))
    assert "\n" not in str(refused.value)


async def test_incomplete_request_head_times_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.3)
    # The timeout does not apply to open feeds.
    viewer = await server.viewer("?stream=door")
    async with server.http.stream("GET", "/captions/door") as events:
        silent_reader, silent = await asyncio.open_connection("127.0.0.1", server.port)
        slow_reader, slow = await asyncio.open_connection("127.0.0.1", server.port)
        slow.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        for reader in (silent_reader, slow_reader):
            assert await asyncio.wait_for(reader.read(), TIMEOUT_FACTOR) == b""
        server.streams.get("door").final("a man opens a door")
        assert [line async for line in first(events.aiter_lines(), "a man opens a door")]
    assert (await receive(viewer, 2))[1]["text"] == "a man opens a door"
    for writer in (silent, slow):
        writer.close()


async def first(lines: AsyncIterator[str], text: str) -> AsyncIterator[str]:
    """The lines up to the one with `text`."""
    async with asyncio.timeout(TIMEOUT_FACTOR):
        async for line in lines:
            yield line
            if text in line:
                return
