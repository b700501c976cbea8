"""Configuration over HTTP: reload of the file, and what is kept for the next start."""

from __future__ import annotations

from streamcap.config.problems import ConfigError, Problem
from streamcap.config.reload import Changes
from streamcap.errors import StreamcapError
from tests.server.conftest import FakeStreams, Start


class FakeReloader:
    answer: Changes | Exception = Changes(changed=("door",), needs_restart=("server.port",))

    async def reload(self) -> Changes:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def test_reload_answers_what_changed(start: Start) -> None:
    server = await start(reloader=FakeReloader())
    answer = await server.http.post("/api/reload")
    assert answer.status_code == 200
    assert answer.json() == {
        "added": [], "changed": ["door"], "restarted": [], "removed": [], "failed": {},
        "applied": [],
        "needs_restart": ["server.port"],
    }  # fmt: skip


async def test_reload_of_bad_file_lists_problems(start: Start) -> None:
    reloader = FakeReloader()
    reloader.answer = ConfigError(
        [Problem("cams.yaml", 3, "a: unknown key"), Problem("cams.yaml", 5, "url: rtsp://u:hunter2@h")]
    )
    refused = await (await start(reloader=reloader)).http.post("/api/reload")
    assert refused.status_code == 422
    lines = ["cams.yaml:3: a: unknown key", "cams.yaml:5: url: rtsp://***:***@h"]
    assert refused.json()["detail"] == lines[0]
    assert refused.json()["problems"][0] == lines[0] and "hunter2" not in refused.text


async def test_reload_without_file_is_refused(start: Start) -> None:
    refused = await (await start()).http.post("/api/reload")
    assert refused.status_code == 409 and "--config" in refused.json()["detail"]


class FakeState:
    def __init__(self) -> None:
        self.saved: list[tuple[str, bool]] = []
        self.fails = False

    async def save(self, streams: FakeStreams, name: str) -> None:
        if self.fails:
            raise StreamcapError("a restart will forget it")
        self.saved.append((name, name in streams.names()))


async def test_every_change_over_http_is_kept(start: Start) -> None:
    state = FakeState()
    http = (await start(state=state)).http
    await http.post("/streams", json={"name": "door", "url": "rtsp://door"})
    await http.patch("/streams/door", json={"every": 2})
    await http.patch("/streams/door", json={"url": "rtsp://door/2"})
    await http.delete("/streams/door")
    assert state.saved == [("door", True), ("door", True), ("door", True), ("door", False)]
    await http.post("/streams", json={"url": "gopher://x"})
    await http.delete("/streams/nobody")
    assert len(state.saved) == 4
    state.fails = True
    answer = await http.post("/streams", json={"name": "yard", "url": "rtsp://yard"})
    assert (answer.status_code, answer.json()["detail"]) == (503, "a restart will forget it")
