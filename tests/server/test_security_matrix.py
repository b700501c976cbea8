"""Every route with every token, in every place, from every origin, on a real server; and the table in the docs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import Mount, Route
from websockets.exceptions import InvalidStatus

from tests.server import matrix
from tests.server.conftest import Server, Start

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[2] / "docs/security.md"
CELLS = [
    (token, place, origin)
    for token, place, origin in itertools.product(matrix.TOKENS, matrix.PLACES, matrix.ORIGINS)
    if token != "none" or place == "header"
]


async def status_of(server: Server, route: matrix.Route, token: str, place: str, origin: str) -> int:
    secret, headers, query = matrix.TOKENS[token], {}, ""
    if secret and place == "header":
        headers["Authorization"] = f"Bearer {secret}"
    elif secret and place == "query":
        query = f"?token={secret}"
    elif secret:
        headers["Cookie"] = f"token={secret}; Authorization=Bearer {secret}"
    if origin != "none":
        headers["Origin"] = {"own": server.url, "foreign": matrix.FOREIGN, "null": "null"}[origin]
    if route.method != "WEBSOCKET":
        return (await server.http.request(route.method, route.path + query, headers=headers)).status_code
    try:
        await server.viewer(query, additional_headers=headers)
    except InvalidStatus as refused:
        return refused.response.status_code
    return 101


async def test_every_cell_is_as_the_table_says(start: Start) -> None:
    server = await start(view_tokens=frozenset({matrix.VIEW}), publish_tokens=frozenset({matrix.PUBLISH}))
    door = await server.streams.add("door", "rtsp://door")
    for number in range(8):
        door.final(f"caption {number}")
    wrong = [
        (route.method, route.path, *cell, status)
        for route in matrix.ROUTES
        for cell in CELLS
        if (status := await status_of(server, route, *cell)) != matrix.expected(route, *cell)
    ]
    assert not wrong
    assert server.streams.names() == ["door"]


def leaves(routes: list[Any], prefix: str = "") -> set[tuple[str, str]]:
    """Method and path of every route."""
    found: set[tuple[str, str]] = set()
    for route in routes:
        if isinstance(route, APIWebSocketRoute):
            found.add(("WEBSOCKET", prefix + route.path))
        elif isinstance(route, APIRoute | Route):
            found |= {(method, prefix + route.path) for method in (route.methods or set()) - {"HEAD"}}
        elif isinstance(route, Mount):
            found.add(("GET", prefix + route.path))
        else:
            router = route.original_router
            found |= leaves(router.routes, prefix + getattr(route, "prefix", ""))
    return found


async def test_no_route_is_missing(server: Server) -> None:
    assert leaves(server.app.routes) == {(route.method, route.name) for route in matrix.ROUTES}


def test_document_has_the_table() -> None:
    assert matrix.table() in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("host", "origin", "same"),
    [
        ("name:443", "https://name", True),
        ("name", "https://name:443", True),
        ("NAME:80", "http://name", True),
        ("name", "http://Name", True),
        ("[::1]:8642", "http://[::1]:8642", True),
        ("name:8642", "https://name", False),
        ("name:80", "https://name", False),
        ("name", "ftp://name", False),
        ("", "http://", False),
        ("name", "http://name@name", False),
        ("name", "http://name/", False),
        ("name", "null", False),
    ],
)
async def test_origin_is_compared_with_default_ports(start: Start, host: str, origin: str, same: bool) -> None:
    server = await start(publish_tokens=frozenset({"t"}))
    headers = {"Host": host, "Origin": origin, "Authorization": "Bearer t"}
    assert (await server.http.get("/streams", headers=headers)).status_code == (200 if same else 403)
