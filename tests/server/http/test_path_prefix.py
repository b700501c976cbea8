"""`PathPrefix`, and TLS without a proxy."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import httpx
import pytest
from aiortc import RTCPeerConnection
from starlette.types import Message, Scope
from websockets.asyncio.client import connect

from streamcap.errors import InputError
from streamcap.server.http.path_prefix import PathPrefix, is_prefix, route_path
from streamcap.server.options import ServerOptions
from testbed.certificates import certificate
from testbed.timeouts import TIMEOUT_FACTOR
from tests.server.conftest import Start, receive
from tests.server.proxy import prefix_proxy

pytestmark = pytest.mark.slow

SDP = {"Content-Type": "application/sdp"}


@pytest.mark.parametrize(
    ("root_path", "strips", "tells"),
    [("", True, True), ("/cams", True, False), ("/cams", False, False), ("/other", True, True)],
    ids=["header", "option", "unstripped", "header first"],
)
async def test_everything_works_behind_prefix(start: Start, root_path: str, strips: bool, tells: bool) -> None:
    server = await start(root_path=root_path)
    await server.streams.add("door", "rtsp://door")
    server.streams.get("door").final("a man opens a door")
    prefix = "/cams"
    async with prefix_proxy(server.port, prefix, strips=strips, tells=tells) as port:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=f"{url}{prefix}", timeout=TIMEOUT_FACTOR) as http:
            for path in ("/", "/overlay", "/pages/index.js", "/healthz", "/streams", "/streams/door/captions.vtt"):
                assert (await http.get(path)).status_code == 200, path
            assert (await http.get("/openapi.json")).json()["servers"] == [{"url": prefix}]
            added = await http.post("/streams", json={"name": "yard", "url": "rtsp://yard"})
            assert added.headers["location"] == f"{prefix}/streams/yard"
            assert (await http.get(f"{url}{added.headers['location']}")).json()["name"] == "yard"
            peer = RTCPeerConnection()
            peer.addTransceiver("video", "recvonly")
            await peer.setLocalDescription(await peer.createOffer())
            watching = await http.post("/whep/door", content=peer.localDescription.sdp, headers=SDP)
            await peer.close()
            assert watching.headers["location"].startswith(f"{prefix}/whep/door/")
            assert (await http.delete(f"{url}{watching.headers['location']}")).status_code == 200
            slash = await http.get("/streams/")
            assert slash.is_redirect and httpx.URL(slash.headers["location"]).path == f"{prefix}/streams"
            server.streams.ready = False
            assert (await http.get("/streams")).status_code == 503
            server.streams.ready = True
        async with connect(f"ws://127.0.0.1:{port}{prefix}/captions?stream=door") as viewer:
            assert (await receive(viewer, 1))[0]["type"] == "hello"


async def call(root_path: str, path: str, header: str = "", query: bytes = b"") -> tuple[Scope | None, list[Message]]:
    """The scope that reaches the application, and messages sent without it."""
    seen: list[Scope] = []
    sent: list[Message] = []

    async def app(scope: Scope, *_: object) -> None:
        seen.append(scope)

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"x-forwarded-prefix", header.encode())] if header else []
    scope = {"type": "http", "path": path, "headers": headers, "query_string": query, "root_path": ""}
    await PathPrefix(app, root_path)(scope, None, send)  # type: ignore[arg-type]
    return (seen[0] if seen else None), sent


async def test_prefix_without_slash_redirects() -> None:
    scope, sent = await call("/cams", "/cams", query=b"token=a%26b&x=\r\n")
    assert scope is None
    assert sent[0]["status"] == 307
    assert dict(sent[0]["headers"])[b"location"] == b"/cams/?token=a%26b&x=%0D%0A"


@pytest.mark.parametrize(
    "header",
    ["//evil.example", "/a//b", "/a/../b", "cams", "/a b", "/" + "a" * 300, "https://x", "/é", "/streams", "/pages/x"],
)
async def test_hostile_prefix_header_is_ignored(header: str) -> None:
    assert not is_prefix(header)
    scope, _ = await call("/cams", "/streams", header)
    assert scope is not None and (scope["root_path"], scope["path"]) == ("/cams", "/cams/streams")
    assert route_path(scope) == "/streams"


@pytest.mark.parametrize("root_path", ["cams", "/cams/", "//", "/a b", "/..", "/a/..", "/streams"])
def test_root_path_that_cannot_work_is_refused(root_path: str) -> None:
    with pytest.raises(InputError, match="--root-path"):
        ServerOptions(root_path=root_path)


async def test_tls_serves_https_and_wss(start: Start, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    server = await start(tls_cert=cert, tls_key=key)
    trust = ssl.create_default_context(cafile=str(cert))
    async with httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{server.port}", verify=trust, timeout=TIMEOUT_FACTOR
    ) as http:
        assert (await http.get("/healthz")).status_code == 200
        own = {"Origin": f"https://127.0.0.1:{server.port}"}
        assert (await http.get("/streams", headers=own)).status_code == 200
    async with connect(f"wss://127.0.0.1:{server.port}/captions", ssl=trust) as viewer:
        assert json.loads(await viewer.recv())["type"] == "hello"


def test_tls_files_that_cannot_work_are_refused(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    (tmp_path / "text").write_text("x")
    for files in ((cert, None), (None, key), (cert, cert), (tmp_path / "none", key), (tmp_path / "text", key)):
        with pytest.raises(InputError, match="--tls-cert") as refused:
            ServerOptions(tls_cert=files[0], tls_key=files[1])
        assert "\n" not in str(refused.value)
