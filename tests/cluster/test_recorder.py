"""Caption files of a cluster: nothing is lost or doubled, whoever writes them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from nats.js.errors import ServiceUnavailableError

from streamcap.captions.event import Event, encode
from streamcap.cluster.jetstream.connection import Connection, _prepare
from streamcap.cluster.jetstream.subjects import LOG_STREAM
from streamcap.cluster.log.reader import Message, StreamReader
from streamcap.cluster.log.writer import LogWriter
from streamcap.cluster.recorder import recording as recording_module
from streamcap.cluster.recorder.options import RecorderOptions
from streamcap.cluster.recorder.recording import MAX_WAITING, Recording, last_sequence
from streamcap.cluster.tasks import end_tasks
from streamcap.errors import InputError
from streamcap.streams.counters import Counters
from streamcap.streams.storage.file_rotation import DAY_SECONDS, RotationOptions
from testbed.cluster.judge import finals_of, read_logs, recorded_finals
from testbed.cluster.nodes import SCENE, NodeProcess
from testbed.nats import NatsCluster
from testbed.service import wait_until
from tests.captions.fakes import caption
from tests.cluster.log.test_log import until
from tests.ffprobe import subtitle_times
from tests.streams.storage.test_file_retention import write_part


class Camera:
    """Writes finals to the log of stream `door`."""

    def __init__(self, connection: Connection, captured_at: float = 1e9) -> None:
        self._captured_at = captured_at
        self._log = LogWriter(connection, "door", "owner", lambda name: None)
        self._number = 0
        self._counters = Counters()

    async def open(self) -> Camera:
        await self._log.open(60, Counters())
        return self

    async def store(self, count: int, batch: int = 1) -> None:
        for _ in range(0, count, batch):
            await self._log.append([self._event() for _ in range(batch)], self._counters)

    def _event(self) -> Event:
        self._number += 1
        payload = caption(number=self._number, start=float(self._number))
        payload = payload._replace(captured_at=self._captured_at + self._number)
        event = encode(self._counters.seq, payload)
        self._counters = self._counters.after(event.payload)
        return event


def seqs(out: Path) -> list[int]:
    """Of the finals in the files, the older parts first."""
    return [final["seq"] for final in recorded_finals(out, "door")]


def make(connection: Connection, out: Path, node: str = "a", lost: list[str] | None = None) -> Recording:
    return Recording(connection, "door", node, RecorderOptions(out), ([] if lost is None else lost).append)


class Following:
    """Gives a recording what is stored from now on."""

    def __init__(self, connection: Connection) -> None:
        self.recording: Recording | None = None
        self._connection = connection

    async def __aenter__(self) -> Following:
        after = await last_sequence(self._connection)
        reader = StreamReader(self._connection, LOG_STREAM, "sc.cap.*", self._put, after=after)
        self._task = asyncio.create_task(reader.run())
        await reader.caught_up.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await end_tasks((self._task,))

    def _put(self, message: Message) -> None:
        if self.recording is not None:
            self.recording.put(message)


async def test_recording_has_the_past_and_what_comes(connection: Connection, tmp_path: Path) -> None:
    camera = await Camera(connection).open()
    await camera.store(5)
    async with Following(connection) as following:
        following.recording = recording = make(connection, tmp_path)
        await recording.open()
        await camera.store(5)
        await until(lambda: seqs(tmp_path) == list(range(1, 11)))
        await recording.close(to_end=False)
    assert "--> 00:00:1" in (tmp_path / "door.srt").read_text()
    assert (tmp_path / "door.vtt").read_text().startswith("WEBVTT")
    assert recording.waits_since is None or recording.finals == 10


@pytest.mark.parametrize("shared", [True, False])
async def test_next_recorder_goes_on(connection: Connection, tmp_path: Path, shared: bool) -> None:
    outs = [tmp_path / "1", tmp_path / ("1" if shared else "2")]
    camera = await Camera(connection).open()
    await camera.store(3)
    first = make(connection, outs[0])
    await first.open()
    await until(lambda: first.finals == 3 and first.position.next > 3)
    await first.close(to_end=False)
    await camera.store(3)
    second = make(connection, outs[1], "b")
    await second.open()
    await until(lambda: second.finals == 3)
    await second.close(to_end=False)
    assert (seqs(outs[0]), seqs(outs[1])) == (([*range(1, 7)],) * 2 if shared else ([1, 2, 3], [4, 5, 6]))


async def test_final_in_the_file_is_not_written_again(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    camera = await Camera(connection).open()
    await camera.store(3)
    first = make(connection, tmp_path)
    monkeypatch.setattr(first.position, "advance", lambda next_sequence: asyncio.Event().wait())
    await first.open()
    await until(lambda: len(seqs(tmp_path)) == 3)
    monkeypatch.setattr(recording_module, "CLOSE_SECONDS", 0.1)
    await first.close(to_end=False)  # as if killed between the file and the position
    await camera.store(1)
    second = make(connection, tmp_path, "b")
    assert second.position.ownership.term == 0
    await second.open()
    await until(lambda: len(seqs(tmp_path)) >= 4)
    await second.close(to_end=False)
    assert seqs(tmp_path) == [1, 2, 3, 4]
    assert (second.finals, second.position.ownership.term) == (1, 2)


async def test_former_recorder_stops(connection: Connection, tmp_path: Path) -> None:
    camera, lost = await Camera(connection).open(), list[str]()
    async with Following(connection) as following:
        following.recording = first = make(connection, tmp_path / "1", lost=lost)
        await first.open()
        await camera.store(1)
        await until(lambda: first.finals == 1)
        second = make(connection, tmp_path / "2", "b")
        await second.open()
        await camera.store(1)
        await until(lambda: lost == ["door"])
        await first.close(to_end=False)
        await until(lambda: second.finals == 1)
        await second.close(to_end=False)
    assert seqs(tmp_path / "2") == [2]


async def test_what_does_not_fit_is_read_again(connection: Connection, tmp_path: Path) -> None:
    camera = await Camera(connection).open()
    async with Following(connection) as following:
        recording = make(connection, tmp_path)
        write, may_write = recording._writer.append, asyncio.Event()

        async def append(events: list[Event], needed: Counters) -> None:
            await may_write.wait()
            await write(events, needed)

        recording._writer.append = append  # type: ignore[assignment, method-assign]
        following.recording = recording
        await recording.open()
        await camera.store(MAX_WAITING + 50)
        await until(lambda: recording.read_again)
        may_write.set()
        await until(lambda: len(seqs(tmp_path)) == MAX_WAITING + 50)
        await recording.close(to_end=False)
    assert seqs(tmp_path) == list(range(1, MAX_WAITING + 51))


async def test_hole_between_messages_is_read_again(connection: Connection, tmp_path: Path) -> None:
    camera = await Camera(connection).open()
    await camera.store(1)
    recording = make(connection, tmp_path)
    await recording.open()
    await until(lambda: recording.finals == 1 and not recording._known)
    await camera.store(2)  # which the recording is not given
    async with Following(connection) as following:
        following.recording = recording
        await camera.store(1)
        await until(lambda: recording.finals == 4)
        await recording.close(to_end=False)
    assert seqs(tmp_path) == [1, 2, 3, 4]


async def test_full_disk_loses_nothing(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recording_module, "RETRY_SECONDS", 0.05)
    camera = await Camera(connection).open()
    recording = make(connection, tmp_path)
    write, failures = recording._writer.append, [OSError(28, "No space left on device")] * 3

    async def append(events: list[Event], needed: Counters) -> None:
        if failures:
            raise failures.pop()
        await write(events, needed)

    recording._writer.append = append  # type: ignore[assignment, method-assign]
    await camera.store(4)
    await recording.open()
    await until(lambda: recording.finals == 4)
    await recording.close(to_end=False)
    assert seqs(tmp_path) == [1, 2, 3, 4]
    assert [record.message for record in caplog.records if "No space left" in record.message][1:] == []


@pytest.mark.parametrize("error", [ConnectionResetError(), ServiceUnavailableError(), RuntimeError()])
async def test_recording_goes_on_after_an_error(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(recording_module, "RETRY_SECONDS", 0.05)
    camera = await Camera(connection).open()
    await camera.store(2)
    recording = make(connection, tmp_path)
    read, errors = recording._read, [error]

    async def fail_once() -> list[Message]:
        if errors:
            raise errors.pop()
        return await read()

    monkeypatch.setattr(recording, "_read", fail_once)
    await recording.open()
    await until(lambda: recording.finals == 2)
    await recording.close(to_end=False)
    assert seqs(tmp_path) == [1, 2]


async def test_removed_stream_is_recorded_to_its_end(connection: Connection, tmp_path: Path) -> None:
    camera = await Camera(connection).open()
    recording = make(connection, tmp_path)
    await recording.open()
    await camera.store(3)
    await recording.close(to_end=True)
    assert seqs(tmp_path) == [1, 2, 3]


async def test_log_made_anew_is_recorded_from_its_begin(connection: Connection, tmp_path: Path) -> None:
    camera = await Camera(connection).open()
    await camera.store(3)
    recording = make(connection, tmp_path)
    await recording.open()
    await until(lambda: recording.finals == 3)
    await recording.close(to_end=False)
    await connection.jetstream.purge_stream(LOG_STREAM)
    await connection.jetstream.delete_stream(LOG_STREAM)
    await _prepare(connection)
    camera = await Camera(connection, captured_at=2e9).open()
    await camera.store(2)
    recording = make(connection, tmp_path)
    await recording.open()
    await until(lambda: recording.finals == 2)
    await recording.close(to_end=False)
    assert seqs(tmp_path) == [1, 2, 3, 1, 2]


def test_wrong_window_names_its_flag(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--subtitle-window"):
        RecorderOptions(tmp_path, RotationOptions(), 0.0)


@pytest.mark.e2e
def test_files_survive_kills_of_recorders(nats_server: NatsCluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("--roles", "recorder", "--out", str(out), "--rotate-bytes", "4096", "--keep-days", "3")
    out.mkdir()
    leftover = write_part(out, "gone", 1, time.time() - 5 * DAY_SECONDS)
    ingest = NodeProcess("i", nats_server.urls, tmp_path, f"door={SCENE}")
    with ingest, NodeProcess("r", nats_server.urls, tmp_path, *arguments) as one:
        wait_for(out, 3, one)
        one.kill()
        with NodeProcess("s", nats_server.urls, tmp_path, *arguments) as other:
            wait_for(out, len(seqs(out)) + 3, other)
            one.start()
            other.kill()
            wait_for(out, len(seqs(out)) + 3, one)
            assert one.terminate() == 0, one.describe()
    stored = finals_of(asyncio.run(read_logs(nats_server.urls)), "door")
    recorded = seqs(out)
    assert recorded == [final["seq"] for final in stored][: len(recorded)]
    assert len(list(out.glob("door.jsonl.*"))) >= 1, "the file was rotated"
    assert subtitle_times(out / "door.srt")
    assert not leftover.exists(), "--keep-days is for streams that have left, too"


def wait_for(out: Path, count: int, node: NodeProcess) -> None:
    wait_until(lambda: len(seqs(out)) >= count, node.describe)
    assert node.is_running


@pytest.mark.e2e
def test_out_needs_the_role_recorder(nats_server: NatsCluster, tmp_path: Path) -> None:
    node = NodeProcess("i", nats_server.urls, tmp_path, "--out", str(tmp_path / "out"))
    node.start()
    assert node.wait() == 2
    assert "--out: only nodes with the role recorder" in node.log.read_text()
