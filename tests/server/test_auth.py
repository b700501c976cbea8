"""`Auth`: tokens, origins, hosts."""

from __future__ import annotations

import logging
from urllib.parse import unquote

import pytest
import pytest_asyncio
from websockets.exceptions import InvalidStatus

from streamcap.errors import InputError
from streamcap.server.options import ServerOptions
from tests.server.conftest import Server, Start, receive

VIEW, PUBLISH = "see-4711", "do-4711"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest_asyncio.fixture(loop_scope="session")
async def guarded(start: Start) -> Server:
    server = await start(view_tokens=frozenset({VIEW}), publish_tokens=frozenset({PUBLISH}))
    await server.streams.add("door", "rtsp://door")
    return server


@pytest.mark.parametrize(
    "path", ["/streams", "/streams/door", "/streams/door/captions.srt", "/captions/door", "/metrics"]
)
async def test_viewing_needs_a_token(guarded: Server, path: str) -> None:
    for headers in ({}, bearer("wrong"), {"Authorization": "Basic eA=="}, bearer("é")):
        refused = await guarded.http.get(path, headers={k: v.encode() for k, v in headers.items()})
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert "token" in refused.json()["detail"]


async def test_only_publish_token_can_change_streams(guarded: Server) -> None:
    for token in (VIEW, PUBLISH):
        assert (await guarded.http.get("/streams", headers=bearer(token))).status_code == 200
        assert (await guarded.http.get(f"/streams?token={token}")).status_code == 200
        await receive(await guarded.viewer(f"?token={token}"), 1)
        await receive(await guarded.viewer(additional_headers=bearer(token)), 1)
    new = {"name": "yard", "url": "rtsp://yard"}
    assert (await guarded.http.post("/streams", json=new)).status_code == 401
    assert (await guarded.http.post("/streams", json=new, headers=bearer(VIEW))).status_code == 403
    assert (await guarded.http.delete("/streams/door", headers=bearer(VIEW))).status_code == 403
    assert (await guarded.http.post("/streams", json=new, headers=bearer(PUBLISH))).status_code == 201
    assert (await guarded.http.delete("/streams/yard", headers=bearer(PUBLISH))).status_code == 204


async def test_view_token_alone_disables_changes(start: Start) -> None:
    server = await start(view_tokens=frozenset({VIEW}))
    refused = await server.http.post("/streams", json={"url": "rtsp://x"}, headers=bearer(VIEW))
    assert refused.status_code == 403


async def test_websocket_without_token_is_refused(guarded: Server) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        await guarded.viewer("?stream=door")
    assert refusal.value.response.status_code == 401


async def test_health_needs_no_token(guarded: Server) -> None:
    for path in ("/healthz", "/readyz", "/", "/docs"):
        assert (await guarded.http.get(path)).status_code == 200


async def test_tokens_are_absent_from_logs(guarded: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="uvicorn")
    await receive(await guarded.viewer(f"?stream=door&token={VIEW}"), 1)
    for query in (f"token={PUBLISH}", f"%74oken={PUBLISH}", f"t%6Fken=d%6F-4711&token={PUBLISH}"):
        assert (await guarded.http.get(f"/streams?{query}")).status_code == 200
    await guarded.http.get(f"/streams%3Ftoken={PUBLISH}", headers=bearer(PUBLISH))
    lines = [record.getMessage() for record in caplog.records if record.name.startswith(("uvicorn", "streamcap"))]
    assert lines
    assert not [line for line in lines if VIEW in line or PUBLISH in unquote(line)]


@pytest.mark.parametrize(
    ("origin", "let_in"),
    [
        (None, True),
        ("http://127.0.0.1:{port}", True),
        ("https://pages.example", True),
        ("https://evil.example", False),
        ("http://127.0.0.1:1", False),
        ("null", False),
        ("http://[", False),
    ],
)
async def test_foreign_origin_is_refused(start: Start, origin: str | None, let_in: bool) -> None:
    server = await start(origins=frozenset({"https://pages.example"}))
    headers = {} if origin is None else {"Origin": origin.format(port=server.port)}
    answer = await server.http.get("/streams", headers=headers)
    assert answer.status_code == (200 if let_in else 403)
    if let_in:
        await receive(await server.viewer(additional_headers=headers), 1)
        return
    with pytest.raises(InvalidStatus) as refusal:
        await server.viewer(additional_headers=headers)
    assert refusal.value.response.status_code == 403


async def test_foreign_host_is_refused_without_token(server: Server) -> None:
    # DNS rebinding: a foreign name resolves to this machine, so the browser sees the same origin.
    headers = {"Host": f"evil.example:{server.port}", "Origin": f"http://evil.example:{server.port}"}
    assert (await server.http.get("/streams", headers=headers)).status_code == 403
    assert (await server.http.get("/streams", headers={"Host": f"localhost:{server.port}"})).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.7", "camera.example"])
def test_non_loopback_host_requires_token(host: str) -> None:
    with pytest.raises(InputError, match="token"):
        ServerOptions(host=host)
    ServerOptions(host=host, publish_tokens=frozenset({"t"}))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"port": 70000}, "port"),
        ({"view_tokens": frozenset({""})}, "token"),
        ({"publish_tokens": frozenset({"a b"})}, "token"),
        ({"origins": frozenset({"example.org"})}, "origin"),
        ({"origins": frozenset({"https://example.org/"})}, "origin"),
        ({"view_tokens": frozenset({"a", "b"}), "publish_tokens": frozenset({"b"})}, "the same as --token"),
    ],
)
def test_invalid_options(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        ServerOptions(**options)  # type: ignore[arg-type]


async def test_allowed_origin_may_use_whole_api(start: Start) -> None:
    server = await start(origins=frozenset({"https://pages.example"}), publish_tokens=frozenset({PUBLISH}))
    asked = {
        "Origin": "https://pages.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    preflight = await server.http.options("/whip/tab", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://pages.example"
    other = await server.http.options("/whip/tab", headers={**asked, "Origin": "https://evil.example"})
    assert other.status_code == 400


async def test_no_request_is_handed_to_a_thread(guarded: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_sync(*_: object, **__: object) -> None:
        raise AssertionError("a thread was asked for")

    monkeypatch.setattr("anyio.to_thread.run_sync", run_sync)
    for path in ("/metrics", "/streams", "/streams/door", "/readyz"):
        assert (await guarded.http.get(path, headers=bearer(VIEW))).status_code == 200
    body = {"name": "yard", "url": "rtsp://yard"}
    assert (await guarded.http.post("/streams", json=body, headers=bearer(PUBLISH))).status_code == 201
    assert (await guarded.http.delete("/streams/yard", headers=bearer(PUBLISH))).status_code == 204
