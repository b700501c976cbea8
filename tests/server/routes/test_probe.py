"""`POST /api/probe`."""

from __future__ import annotations

import socket
from contextlib import closing

from tests.server.conftest import Server, Start
from tests.server.matrix import PUBLISH, VIEW


async def test_probe_says_what_is_wrong(start: Start) -> None:
    server = await start(allow_net=True)
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"rtsp://user:hunter2@127.0.0.1:{taken.getsockname()[1]}/door"
        answer = await server.http.post("/api/probe", json={"url": url})
    report = answer.json()
    assert (answer.status_code, report["usable"]) == (200, False)
    assert report["reason"] == "the connection was refused; is the camera on, and the port right?"
    assert "hunter2" not in answer.text


async def test_probe_obeys_the_address_policy(server: Server) -> None:
    for url, status in (
        ("rtsp://127.0.0.1/door", 403),
        ("http://169.254.169.254/latest", 403),
        ("/etc/passwd", 403),
        ("udp://0.0.0.0:5000", 403),
        ("gopher://x/1", 400),
        ("", 400),
    ):
        answer = await server.http.post("/api/probe", json={"url": url})
        assert answer.status_code == status, url
        assert answer.json()["detail"]


async def test_probe_needs_the_publish_token(start: Start) -> None:
    server = await start(view_tokens=frozenset({VIEW}), publish_tokens=frozenset({PUBLISH}))
    headers = {"Authorization": f"Bearer {VIEW}"}
    answer = await server.http.post("/api/probe", json={"url": "rtsp://door/1"}, headers=headers)
    assert answer.status_code == 403
