"""A saved configuration file changes models and defaults of the running service; the rest is named."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamcap.cli.service.serve_options import load_checked, wanted_of
from streamcap.config.config import Config
from streamcap.config.reload import Reloader
from streamcap.service.changes import LIVE_OPTIONS, ServiceChanges
from testbed.http.chat_server import ChatServer, answering, chat_server
from testbed.timeouts import TIMEOUT_FACTOR
from tests.service.test_remote_service import Service

FILE = """
server: {{every: 0.25, min_confidence: 0}}
models:
  talker: {{model: "openai:m", url: "{url}", prompt: "{prompt}", fallback: mini}}
  mini: {{model: mini}}
{more}
streams:
  door: {{url: "rtsp://door/1"{settings}}}
"""


class Reloading:
    """A service of one stream and its configuration file."""

    def __init__(self, path: Path, url: str) -> None:
        self.path = path
        self.write(url)
        config = self._load()
        self.service = Service(wanted_of(config, {}).models["talker"])
        self.reloader = Reloader(config, self._load, path)
        self._task: asyncio.Task[None] | None = None

    def _load(self) -> Config:
        return load_checked(self.path, {})

    def write(self, url: str, *, prompt: str = "What is there?", more: str = "", settings: str = "") -> None:
        self.path.write_text(FILE.format(url=url, prompt=prompt, more=more, settings=settings))

    async def start(self) -> None:
        await self.service.add(["door"])
        changes = ServiceChanges(lambda config: wanted_of(config, {}), self.service.streams, self.service.models)
        self._task = asyncio.create_task(self.reloader.watch(self.service.streams, changes))
        await asyncio.sleep(0)

    async def close(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait((self._task,))
        await self.service.close()


@pytest.fixture(autouse=True)
def no_polling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reloads happen when the test says so."""
    monkeypatch.setattr("streamcap.config.reload.POLL_S", TIMEOUT_FACTOR)
    yield


async def until_asked(server: ChatServer, prompt: str) -> None:
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while not any(request.prompt == prompt for request in server.requests):
            await asyncio.sleep(0.01)


async def test_remote_models_change_without_restart(tmp_path: Path) -> None:
    async with chat_server(answering("A man.")) as first, chat_server(answering("A dog.")) as second:
        running = Reloading(tmp_path / "cams.yaml", first.url)
        await running.start()
        await until_asked(first, "What is there?")
        sources = dict(running.service.sources)

        running.write(second.url, prompt="Who is there?")
        changes = await running.reloader.reload()
        assert (changes.applied, changes.needs_restart) == (("models.talker",), ())
        await until_asked(second, "Who is there?")

        more = f'  other: {{model: "openai:other", url: "{first.url}"}}'
        running.write(second.url, prompt="Who is there?", more=more, settings=", model: other")
        changes = await running.reloader.reload()
        assert (changes.applied, changes.changed, changes.needs_restart) == (("models.other",), ("door",), ())
        async with asyncio.timeout(TIMEOUT_FACTOR):
            while first.requests[-1].body["model"] != "other":
                await asyncio.sleep(0.01)

        running.write(second.url, prompt="Who is there?")
        changes = await running.reloader.reload()
        assert (changes.applied, changes.changed, changes.needs_restart) == (("models.other",), ("door",), ())
        assert "other" not in running.service.models.served.names
        assert (await running.reloader.reload()).applied == ()
        assert running.service.sources == sources and running.service.streams.get("door").reconnections == 0
        await running.close()


async def test_defaults_change_and_the_rest_is_named(tmp_path: Path) -> None:
    async with chat_server(answering("A man.")) as server:
        running = Reloading(tmp_path / "cams.yaml", server.url)
        await running.start()
        door = running.service.streams.get("door")
        text = running.path.read_text().replace("mini: {model: mini}", "mini: {model: mini, fit: pad}")
        text = text.replace("every: 0.25, min_confidence: 0", "every: 0.5, min_confidence: 0.9, port: 1, model: mini")
        running.path.write_text(text)
        changes = await running.reloader.reload()
        assert changes.applied == ("server.every", "server.min_confidence", "server.model")
        # The remote model's fallback is the local model that changes at the next start.
        assert changes.needs_restart == ("models.mini", "server.port")
        assert (door.every, door.publisher.min_confidence, door.view().model) == (0.5, 0.9, "mini")
        assert str(changes).endswith("needs a restart: models.mini, server.port")
        await running.close()


def test_live_options_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| `every`,"))
    assert [name for name in LIVE_OPTIONS if f"`{name}`" not in row] == []
