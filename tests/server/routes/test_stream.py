"""The streams over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import pytest

from streamcap.captions.cue import Cue
from streamcap.captions.event import StreamState
from streamcap.captions.formats import srt, vtt
from streamcap.streams.settings import StreamSettings
from streamcap.streams.storage.caption_files import FilesLockedError
from streamcap.streams.stream_set import StreamRemovedError, TooManyStreamsError
from tests.server.conftest import Server, Start


async def test_stream_list_add_get_and_delete(server: Server) -> None:
    server.streams.get("door").status(StreamState.STALLED, "no frame for 3 s")
    (door,) = (await server.http.get("/streams")).json()
    assert (door["model"], door["model_description"]) == ("mini", "model mini: drawn scenes")
    assert (door["name"], door["state"], door["reason"]) == ("door", "stalled", "no frame for 3 s")

    added = await server.http.post("/streams", json={"name": "yard", "url": "rtsp://yard/1", "every": 2})
    assert added.status_code == 201
    assert added.headers["Location"] == "/streams/yard"
    assert added.json()["every"] == 2
    assert (await server.http.get("/streams/yard")).json()["name"] == "yard"

    assert (await server.http.delete("/streams/yard")).status_code == 204
    assert (await server.http.get("/streams/yard")).status_code == 404
    assert (await server.http.delete("/streams/yard")).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"name": "door", "url": "rtsp://x"}, 409, "door"),
        ({"name": "../etc", "url": "rtsp://x"}, 400, "name"),
        ({"url": "/etc/passwd"}, 403, "this machine"),
        ({"url": "file:///etc/passwd"}, 403, "this machine"),
        ({"url": "webcam:"}, 403, "this machine"),
        ({"url": "C:\\video.mp4"}, 403, "this machine"),
        ({"url": "gopher://x/1"}, 400, "'gopher'"),
        ({"url": ""}, 400, "url"),
        ({}, 400, "url"),
        ({"url": "rtsp://x", "every": "soon"}, 400, "every"),
        ({"url": "rtsp://x", "color": "red"}, 400, "color"),
        ([], 400, "must be a JSON object"),
    ],
)
async def test_invalid_stream_is_refused_with_reason(
    shared_server: Server, body: object, status: int, says: str
) -> None:
    refused = await shared_server.http.post("/streams", json=body)
    assert refused.status_code == status
    assert says in refused.json()["detail"]
    assert shared_server.streams.names() == ["door"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FilesLockedError("door.jsonl is being written"), 409),
        (StreamRemovedError("stream yard was removed before it began"), 409),
        (TooManyStreamsError("256 streams"), 503),
    ],
)
async def test_add_error_status_and_retry_after(server: Server, error: Exception, status: int) -> None:
    def refuse(stream: object) -> None:
        raise error

    server.streams.on_add = refuse
    refused = await server.http.post("/streams", json={"name": "yard", "url": "rtsp://yard/1"})
    assert (refused.status_code, refused.json()) == (status, {"detail": str(error)})
    assert ("retry-after" in refused.headers) == (status == 503)


async def test_invalid_and_oversized_json_are_refused(server: Server) -> None:
    headers = {"Content-Type": "application/json"}
    broken = await server.http.post("/streams", content=b'{"url":', headers=headers)
    assert broken.status_code == 400
    assert "not JSON" in broken.json()["detail"]
    announced = await server.http.post("/streams", content=b'"' + b"x" * 10_000_000 + b'"', headers=headers)
    assert announced.status_code == 413

    async def endless() -> object:
        for _ in range(100):
            yield b" " * 10_000

    chunked = await server.http.post("/streams", content=endless(), headers=headers)
    assert chunked.status_code == 413
    assert "65536" in chunked.json()["detail"]


async def test_method_not_allowed_lists_methods(server: Server) -> None:
    for path, methods in (
        ("/streams", "GET, POST"),
        ("/streams/door", "DELETE, GET, PATCH"),
        ("/whip/x/y", "DELETE, PATCH"),
    ):
        refused = await server.http.put(path)
        assert (refused.status_code, refused.headers["Allow"]) == (405, methods)


async def test_head_is_get_without_body(server: Server) -> None:
    for path in ("/", "/healthz", "/streams", "/streams/door/captions.srt", "/metrics"):
        head, get = await server.http.head(path), await server.http.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
    assert (await server.http.head("/streams/nobody")).status_code == 404
    assert (await server.http.head("/captions/door")).status_code == 405


async def test_local_source_needs_permission(start: Start) -> None:
    server = await start(allow_local=True)
    assert (await server.http.post("/streams", json={"name": "demo", "url": "scenes:"})).status_code == 201


async def test_srt_and_vtt_roll(server: Server) -> None:
    door = server.streams.get("door")
    door.final("a man opens a door")
    door.final("a dog & a cat")
    srt = await server.http.get("/streams/door/captions.srt")
    assert srt.headers["content-type"].startswith("application/x-subrip")
    assert srt.text == (
        "1\n00:00:00,000 --> 00:00:01,000\na man opens a door\n\n2\n00:00:01,000 --> 00:00:02,000\na dog & a cat\n\n"
    )
    vtt = await server.http.get("/streams/door/captions.vtt")
    assert vtt.headers["content-type"].startswith("text/vtt")
    assert vtt.text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na man opens a door\n")
    assert (await server.http.get("/streams/nobody/captions.srt")).status_code == 404


async def test_subtitles_are_written_off_the_event_loop(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.streams.get("door").final("a man")
    threads = []

    def render(cues: Iterable[Cue]) -> str:
        threads.append(threading.current_thread())
        return str(len(list(cues)))

    for module in (srt, vtt):
        monkeypatch.setattr(module, "render", render)
    assert [(await server.http.get(f"/streams/door/captions.{kind}")).text for kind in ("srt", "vtt")] == ["1", "1"]
    assert len(threads) == 2 and threading.current_thread() not in threads


async def test_health_and_readiness(server: Server) -> None:
    assert (await server.http.get("/healthz")).status_code == 200
    assert (await server.http.get("/readyz")).status_code == 200
    server.streams.ready = False
    assert (await server.http.get("/healthz")).status_code == 200
    assert (await server.http.get("/readyz")).status_code == 503
    for answer in (await server.http.get("/streams"), await server.http.get("/captions/nobody")):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_page_is_served_with_its_script(server: Server) -> None:
    page = await server.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert (await server.http.get("/pages/index.js")).status_code == 200
    assert (await server.http.get("/pages/../app.py")).status_code == 404


async def test_file_name_that_is_not_unicode_is_listed(server: Server) -> None:
    await server.streams.add("film", "/films/caf\udce9.mp4")
    listed = await server.http.get("/streams")
    assert listed.status_code == 200
    assert listed.json()[1]["url"] == "/films/caf\ufffd.mp4"


async def test_patch_restarts_stream(server: Server) -> None:
    first = server.streams.get("door")
    answer = await server.http.patch("/streams/door", json={})
    assert answer.status_code == 200
    assert server.streams.get("door") is not first
    assert (answer.json()["url"], answer.json()["every"]) == (first.url, first.every)
    changed = (await server.http.patch("/streams/door", json={"url": "rtsp://other", "every": 5})).json()
    assert (changed["url"], changed["every"]) == ("rtsp://other", 5)


SETTINGS: dict[str, object] = {
    "every": 2.5,
    "prompt": "What happens?",
    "mask": [[[0, 0], [0.3, 0], [0.3, 0.4]]],
    "decode": "keyframes",
    "min_confidence": 0.5,
    "labels": {"site": "north"},
}


async def test_settings_of_stream_are_accepted_and_shown(server: Server) -> None:
    added = await server.http.post(
        "/streams", json={"name": "yard", "url": "rtsp://yard/1", "model": "mini", **SETTINGS}
    )
    assert added.status_code == 201
    shown = (await server.http.get("/streams/yard")).json()
    assert {**SETTINGS, "model": "mini"}.items() <= shown.items()
    assert server.streams.get("yard").settings == StreamSettings(model="mini", **SETTINGS)  # type: ignore[arg-type]


async def test_patch_changes_running_stream(server: Server) -> None:
    door = server.streams.get("door")
    shown = (await server.http.patch("/streams/door", json=SETTINGS)).json()
    assert SETTINGS.items() <= shown.items()
    shown = (await server.http.patch("/streams/door", json={"prompt": None, "every": 3})).json()
    assert (shown["prompt"], shown["every"], shown["decode"]) == (None, 3, "keyframes")
    assert server.streams.get("door") is door


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("every", 0, "every: "),
        ("every", 1e9, "every: "),
        ("prompt", "a\x00b", "prompt "),
        ("mask", [[0, 0], [1, 1]], "mask"),
        ("mask", [[0, 0], [1, 1], [2, 0]], "mask.0.2.0: "),
        ("decode", "some", "decode: "),
        ("min_confidence", -0.1, "min_confidence: "),
        ("labels", {"site name": "north"}, "labels: 'site name'"),
        ("labels", {"site": "x" * 129}, "labels.site: "),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_invalid_setting_is_refused_by_name(
    shared_server: Server, method: str, field: str, value: object, says: str
) -> None:
    before = shared_server.streams.get("door").settings
    path, body = ("/streams", {"url": "rtsp://yard"}) if method == "POST" else ("/streams/door", {"every": 2})
    refused = await shared_server.http.request(method, path, json={**body, field: value})
    assert refused.status_code == 400
    assert refused.json()["detail"].startswith(says)
    assert (shared_server.streams.names(), shared_server.streams.get("door").settings) == (["door"], before)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/streams/yard", {}, 404),
        ("/streams/door", {"url": "/etc/passwd"}, 403),
        ("/streams/door", {"name": "yard"}, 400),
    ],
)
async def test_patch_is_refused(shared_server: Server, path: str, body: dict[str, object], status: int) -> None:
    first = shared_server.streams.get("door")
    assert (await shared_server.http.patch(path, json=body)).status_code == status
    assert shared_server.streams.get("door") is first


async def test_list_allows_what_token_may_do(start: Start) -> None:
    server = await start(publish_tokens=frozenset({"p-1"}), view_tokens=frozenset({"v-1"}))
    for token, allowed in (("p-1", "GET, HEAD, POST"), ("v-1", "GET, HEAD")):
        answer = await server.http.get("/streams", headers={"Authorization": f"Bearer {token}"})
        assert answer.headers["Allow"] == allowed


async def test_description_names_served_types(server: Server) -> None:
    server.streams.get("door").final("a man opens a door")
    paths = (await server.http.get("/openapi.json")).json()["paths"]
    checked = 0
    for path, methods in paths.items():
        if "get" not in methods or "{number}" in path or path.startswith("/captions/"):
            continue
        if path.endswith("snapshot.jpg"):  # this stream has no frame: see test_snapshot.py
            continue
        answer = await server.http.get(path.replace("{name}", "door"))
        described = list(methods["get"]["responses"]["200"]["content"])
        assert described == [answer.headers["Content-Type"].partition(";")[0]], path
        checked += 1
    assert checked >= 7
