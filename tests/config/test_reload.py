"""A configuration file that is saved while the service runs: the difference is applied, nothing else is touched."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from streamcap.cli.service.serve_options import load_checked
from streamcap.config.problems import ConfigError
from streamcap.config.reload import POLL_S, Changes, Reloader
from streamcap.errors import StreamcapError
from streamcap.streams.settings import StreamSettings
from testbed.timeouts import TIMEOUT_FACTOR
from tests.streams.fakes import FakeService, frame

NAMES = [f"cam{number}" for number in range(16)]
SECRET = "hunter2-Kx9"


def text(**other: str) -> str:
    entries = {name: f"{{url: 'rtsp://u:{SECRET}@camera/{name}', every: 1}}" for name in NAMES}
    return "streams:\n" + "".join(f"  {name}: {entry}\n" for name, entry in {**entries, **other}.items())


class Watched:
    """A service with 16 streams of a file, which is watched."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text(text())
        config = load_checked(path, {})
        self.service = FakeService()
        self.reloader = Reloader(config, lambda: load_checked(path, {}), path)
        self.streams = self.service.streams
        self.tasks: list[asyncio.Task[None]] = []
        self.given = dict.fromkeys(NAMES, 0)
        """Frames that each source was given."""

    async def start(self) -> None:
        for name, stream in self.reloader.config.streams.items():
            await self.streams.add(name, stream.url, stream.settings)
        await self.until(lambda: len(self.service.sources) == len(NAMES))
        sources = {source.url.rpartition("/")[2]: source for source in self.service.sources}

        async def feed() -> None:
            for number in itertools.count():
                for name in NAMES:
                    sources[name].put(frame(number / 10, gray=number % 250))
                    self.given[name] += 1
                await asyncio.sleep(0.02)

        self.feeding = asyncio.create_task(feed())
        self.tasks = [self.feeding, asyncio.create_task(self.reloader.watch(self.streams))]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.streams.close()

    def save(self, content: str) -> None:
        """As editors do it: another file takes the place."""
        other = self.path.with_name("cams.yaml~")
        other.write_text(content)
        other.replace(self.path)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_FACTOR):
            while not condition():
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    watched = Watched(tmp_path / "cams.yaml")
    await watched.start()
    yield watched
    await watched.stop()


async def test_changed_stream_of_16_leaves_15_untouched(watched: Watched) -> None:
    streams = {name: watched.streams.get(name) for name in NAMES}
    await watched.until(lambda: all(stream.publisher.captions for stream in streams.values()))
    watched.save(text(cam3=f"{{url: 'rtsp://u:{SECRET}@camera/cam3', every: 0.5, prompt: 'What happens?'}}"))
    await watched.until(lambda: streams["cam3"].every == 0.5)
    assert streams["cam3"].settings == StreamSettings(every=0.5, prompt="What happens?")
    captions = {name: stream.publisher.captions for name, stream in streams.items()}
    await watched.until(lambda: all(s.publisher.captions > captions[name] for name, s in streams.items()))
    watched.feeding.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watched.feeding
    await watched.until(
        lambda: all(stream.source_statistics.frames == watched.given[name] for name, stream in streams.items())
    )
    assert {name: watched.streams.get(name) for name in NAMES} == streams
    assert len(watched.service.sources) == len(NAMES)
    await watched.until(lambda: all(s.publisher.captions == s.source_statistics.sampled for s in streams.values()))
    await watched.service.until(
        lambda: len(watched.service.of("caption")) >= sum(s.publisher.captions for s in streams.values())
    )
    for name in NAMES:
        numbers = [m["seq"] for m in watched.service.messages if m.get("stream") == name and "seq" in m]
        assert numbers == list(range(1, len(numbers) + 1))
    assert not watched.service.of("gap")


async def test_streams_are_added_restarted_and_removed(watched: Watched) -> None:
    await watched.streams.add("by-http", "rtsp://elsewhere/1")
    kept = watched.streams.get("cam0")
    content = text(cam1="{url: 'rtsp://other/1', every: 1}", door="{url: 'whip:'}").replace("  cam2: ", "  yard: ")
    watched.save(content)
    await watched.until(lambda: "door" in watched.streams.names() and "cam2" not in watched.streams.names())
    await watched.until(lambda: watched.streams.get("cam1").source_url == "rtsp://other/1")
    assert set(watched.streams.names()) == {*NAMES, "door", "yard", "by-http"} - {"cam2"}
    assert watched.streams.get("cam0") is kept
    watched.save(text())
    await watched.until(lambda: set(watched.streams.names()) == {*NAMES, "by-http"})


async def test_bad_file_changes_nothing_and_is_one_warning(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    before = {name: watched.streams.get(name) for name in NAMES}
    with caplog.at_level(logging.INFO, "streamcap.config.reload"):
        watched.save(text(cam3="{url: 'gopher://x', evry: 2}"))
        await watched.until(lambda: bool(caplog.records))
        watched.save("streams: [")
        await watched.until(lambda: len(caplog.records) == 2)
        watched.path.unlink()
        await watched.until(lambda: len(caplog.records) == 3)
        watched.save(text(cam3=f"{{url: 'rtsp://u:{SECRET}@camera/cam3', every: 4}}"))
        await watched.until(lambda: len(caplog.records) == 4)
    bad, broken, missing, good = (record.getMessage() for record in caplog.records)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "WARNING", "INFO"]
    assert f"{watched.path}:5: streams.cam3.evry: unknown key; did you mean every?" in bad
    assert f"{watched.path}:1: " in broken and "No such file" in missing
    assert good == "configuration reloaded: changed cam3"
    assert SECRET not in caplog.text
    assert {name: watched.streams.get(name) for name in NAMES} == before


async def test_fixed_keys_are_named_until_restart(watched: Watched) -> None:
    watched.save("server: {port: 1234}\nmodels: {other: {model: mini}}\n" + text(cam1="{url: 'scenes:', model: other}"))
    changes = await watched.reloader.reload()
    assert changes.needs_restart == ("models.other", "server.port")
    assert list(changes.failed) == ["cam1"] and "model 'other'" in changes.failed["cam1"]
    assert (changes.restarted, changes.changed) == ((), ())
    assert (await watched.reloader.reload()) == Changes(needs_restart=("models.other", "server.port"))


async def test_stream_that_failed_not_by_the_file_is_tried_again(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = watched.streams.put

    async def no_answer(*arguments: object, **options: object) -> None:
        raise StreamcapError("JetStream does not answer")

    monkeypatch.setattr(watched.streams, "put", no_answer)
    watched.path.write_text(text(door="{url: 'whip:'}"))
    changes = await watched.reloader.reload()
    assert changes.failed == {"door": "JetStream does not answer"} and not changes.added
    monkeypatch.setattr(watched.streams, "put", put)
    assert (await watched.reloader.reload()).added == ("door",)
    assert await watched.reloader.reload() == Changes()


async def test_reload_on_request(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "streamcap.config.reload"):
        watched.reloader.request()
        await watched.until(lambda: bool(caplog.records))
    assert caplog.records[0].getMessage() == "configuration reloaded: nothing changed"


async def test_file_saved_within_its_time_stamp(watched: Watched) -> None:
    """Another inode is another file, even with the same size and time."""
    assert 3 * POLL_S < 1, "two polls in a row find it changed and complete"
    content = text(cam3=f"{{url: 'rtsp://u:{SECRET}@camera/cam3', every: 2}}")
    other = watched.path.with_name("other")
    other.write_text(content)
    status = watched.path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert other.stat().st_size == status.st_size
    other.replace(watched.path)
    await watched.until(lambda: watched.streams.get("cam3").every == 2)


async def test_change_by_http_is_kept_until_file_differs(watched: Watched) -> None:
    watched.streams.change("cam1", StreamSettings(every=9))
    await watched.streams.remove("cam2")
    watched.save(text(cam3="{url: 'rtsp://camera/cam3'}"))
    changes = await watched.reloader.reload()
    assert changes == Changes(restarted=("cam3",)) or changes == Changes()  # the watcher may have been first
    assert watched.streams.get("cam1").every == 9 and "cam2" not in watched.streams.names()
    watched.save(text(cam1=f"{{url: 'rtsp://u:{SECRET}@camera/cam1', every: 3}}", cam2="{url: 'rtsp://camera/cam2'}"))
    await watched.until(lambda: watched.streams.get("cam1").every == 3 and "cam2" in watched.streams.names())


async def test_reload_raises_problems(watched: Watched) -> None:
    watched.save("streams: 3")
    with pytest.raises(ConfigError, match="streams: must be a mapping"):
        await watched.reloader.reload()
