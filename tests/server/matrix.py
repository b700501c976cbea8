"""The security matrix: the status of every route, for each token and origin."""

from __future__ import annotations

from dataclasses import dataclass

VIEW, PUBLISH, FOREIGN = "see-4711", "do-4711", "https://evil.example"


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    needs: str
    """Required token: "" (none), "view" or "publish"."""
    passed: int
    """Status of a request without a body that passes the checks."""
    template: str = ""
    """The path in the router, if it differs."""

    @property
    def name(self) -> str:
        return self.template or self.path


ROUTES = [
    Route("GET", "/", "", 200),
    Route("GET", "/overlay", "", 200),
    Route("GET", "/docs", "", 200),
    Route("GET", "/openapi.json", "", 200),
    Route("GET", "/pages/index.js", "", 200, "/pages"),
    Route("GET", "/healthz", "", 200),
    Route("GET", "/readyz", "", 200),
    Route("GET", "/metrics", "view", 200),
    Route("GET", "/streams", "view", 200),
    Route("POST", "/streams", "publish", 400),
    Route("POST", "/api/probe", "publish", 400),
    Route("GET", "/streams/door", "view", 200, "/streams/{name}"),
    Route("PATCH", "/streams/nobody", "publish", 400, "/streams/{name}"),
    Route("DELETE", "/streams/nobody", "publish", 404, "/streams/{name}"),
    Route("GET", "/streams/door/captions.srt", "view", 200, "/streams/{name}/captions.srt"),
    Route("GET", "/streams/door/captions.vtt", "view", 200, "/streams/{name}/captions.vtt"),
    Route("GET", "/streams/door/snapshot.jpg", "view", 503, "/streams/{name}/snapshot.jpg"),
    Route("GET", "/streams/door/hls/captions.m3u8", "view", 200, "/streams/{name}/hls/captions.m3u8"),
    Route("GET", "/streams/door/hls/0.vtt", "view", 200, "/streams/{name}/hls/{number}.vtt"),
    Route("POST", "/api/reload", "publish", 409),
    Route("GET", "/captions/nobody", "view", 404, "/captions/{name}"),
    Route("WEBSOCKET", "/captions", "view", 101),
    Route("OPTIONS", "/whip/tab", "", 204, "/whip/{name}"),
    Route("POST", "/whip/tab", "publish", 415, "/whip/{name}"),
    Route("PATCH", "/whip/tab/x", "publish", 404, "/whip/{name}/{session}"),
    Route("DELETE", "/whip/tab/x", "publish", 404, "/whip/{name}/{session}"),
    Route("OPTIONS", "/whep/door", "", 204, "/whep/{name}"),
    Route("POST", "/whep/door", "view", 415, "/whep/{name}"),
    Route("PATCH", "/whep/door/x", "view", 404, "/whep/{name}/{session}"),
    Route("DELETE", "/whep/door/x", "view", 404, "/whep/{name}/{session}"),
]
TOKENS = {
    "none": "",
    "wrong": "guess",
    "view": VIEW,
    "publish": PUBLISH,
}
PLACES = ["header", "query", "cookie"]
ORIGINS = ["none", "own", "foreign", "null"]


def expected(route: Route, token: str, place: str, origin: str) -> int:
    """Expected status of one cell. Origins are checked before tokens."""
    if not route.needs:
        return route.passed
    if origin in ("foreign", "null"):
        return 403
    if token in ("none", "wrong") or place == "cookie":
        return 401
    return 403 if (route.needs, token) == ("publish", "view") else route.passed


def table() -> str:
    """The table of docs/security.md."""
    lines = [
        "| route | no or wrong token, in a cookie | view token | publish token | foreign origin, `null` |",
        "| --- | --- | --- | --- | --- |",
    ]
    for route in ROUTES:
        cells = [
            *(expected(route, token, "header", "own") for token in ("none", "view", "publish")),
            expected(route, "publish", "header", "foreign"),
        ]
        shown = ["yes" if status == route.passed else str(status) for status in cells]
        method = "websocket" if route.method == "WEBSOCKET" else route.method
        lines.append(f"| {method} `{route.name}{'/…' if route.name == '/pages' else ''}` | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"
