"""Which sources may be added over HTTP."""

from __future__ import annotations

import threading

import pytest
from starlette.exceptions import HTTPException

from streamcap.errors import InputError
from streamcap.media.sources import address
from streamcap.media.sources.address import HostScope
from streamcap.server import source_policy
from streamcap.server.options import ServerOptions
from streamcap.server.source_policy import SourcePolicy
from testbed.timeouts import TIMEOUT_FACTOR
from tests.server.conftest import PUBLIC_ADDRESS, Start

LINK_LOCAL = [
    "http://169.254.169.254/latest",
    "http://[fe80::1]/x",
    "rtsp://user:pw@169.254.1.1/x",
    "http://[::ffff:169.254.169.254]/",
    "srt://169.254.1.1:9000",
]
PRIVATE = ["rtsp://127.0.0.1/1", "http://10.0.0.1/", "rtsp://192.168.1.20/1", "rtsp://[::1]/1", "rtmp://172.16.0.9/a"]
PORTS = ["udp://239.0.0.1:5000", "rtp://0.0.0.0:5004", "srt://:9000", "srt://cam:9000?mode=listener"]


async def refusal(url: str, **options: bool) -> str:
    policy = SourcePolicy(ServerOptions(**options))  # type: ignore[arg-type]
    try:
        await policy.check(url)
    except HTTPException as refused:
        assert refused.status_code == 403
        return refused.detail
    finally:
        policy.close()
    return ""


@pytest.mark.parametrize("url", LINK_LOCAL)
async def test_link_local_is_always_refused(url: str) -> None:
    assert "link-local" in await refusal(url, allow_net=True, allow_local=True)


@pytest.mark.parametrize("url", PRIVATE)
async def test_private_address_needs_allow_net(url: str) -> None:
    assert "--allow-net" in await refusal(url, allow_local=True)
    assert await refusal(url, allow_net=True) == ""


@pytest.mark.parametrize("url", PORTS)
async def test_local_port_needs_allow_local(url: str) -> None:
    assert "--allow-local" in await refusal(url, allow_net=True)
    assert await refusal(url, allow_local=True) == ""


async def test_public_address_is_accepted() -> None:
    assert await refusal("rtsp://camera.example/1") == await refusal("whip:") == ""


@pytest.mark.parametrize("host", ["2852039166", "0x7f.1", "127.1"])
async def test_address_in_other_notation(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setattr(source_policy, "resolve", address.resolve)
    assert "not fetched from" in await refusal(f"http://{host}/")


async def test_one_forbidden_address_refuses_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_policy, "resolve", lambda host, port: [PUBLIC_ADDRESS, "10.0.0.1"])
    assert "--allow-net" in await refusal("rtsp://camera.example/1")


@pytest.mark.parametrize("error", [OSError("no such name"), UnicodeError("label too long")])
async def test_unknown_host(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(host: str, port: int) -> list[str]:
        raise error

    monkeypatch.setattr(source_policy, "resolve", fail)
    with pytest.raises(InputError, match="'camera' cannot be resolved"):
        await refusal("rtsp://user:secret@camera/1")


async def test_lookup_is_bounded_and_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, threads = threading.Event(), []

    def hang(host: str, port: int) -> list[str]:
        threads.append(threading.current_thread())
        answered.wait(60 * TIMEOUT_FACTOR)
        return [PUBLIC_ADDRESS]

    monkeypatch.setattr(source_policy, "resolve", hang)
    monkeypatch.setattr(source_policy, "RESOLVE_TIMEOUT_S", 0.05)
    try:
        with pytest.raises(InputError, match="no answer from the name server"):
            await refusal("rtsp://camera/1")
    finally:
        answered.set()
    assert threads and threading.current_thread() not in threads


async def test_post_and_patch_check_address(start: Start) -> None:
    server = await start()
    refused = await server.http.post("/streams", json={"name": "yard", "url": "rtsp://user:pw@10.0.0.9/1"})
    assert refused.status_code == 403 and "pw" not in refused.text
    assert (await server.http.post("/streams", json={"name": "yard", "url": "rtsp://camera/1"})).status_code == 201
    assert (await server.http.patch("/streams/yard", json={"url": "http://127.0.0.1/x"})).status_code == 403
    assert server.streams.get("yard").url == "rtsp://camera/1"


@pytest.mark.parametrize(("allow_net", "scope"), [(False, HostScope.PUBLIC), (True, HostScope.PRIVATE)])
async def test_added_source_carries_its_scope(start: Start, allow_net: bool, scope: HostScope) -> None:
    server = await start(allow_net=allow_net)
    await server.streams.add("door", "rtsp://door/1")
    await server.http.post("/streams", json={"name": "yard", "url": "rtsp://camera/1"})
    assert server.streams.get("door").scope is HostScope.ANY
    assert server.streams.get("yard").scope is scope
    await server.http.patch("/streams/door", json={"url": "rtsp://camera/2"})
    assert server.streams.get("door").scope is scope
