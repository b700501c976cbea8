"""Changes over HTTP that a restart brings back."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from streamcap.config.config import StreamConfig
from streamcap.config.state_file import StateFile
from streamcap.errors import InputError, StreamcapError
from streamcap.media.sources.address import HostScope
from streamcap.streams.settings import StreamSettings
from tests.streams.fakes import FakeService

URL = "rtsp://u:hunter2@camera/1"
DOOR, YARD = StreamConfig(URL, StreamSettings(every=1)), StreamConfig("rtsp://yard/1")
GATE = StreamConfig("rtsp://gate/1", StreamSettings(prompt="Who is there?"), HostScope.PUBLIC)


async def changed(path: Path, configured: dict[str, StreamConfig]) -> FakeService:
    """A service whose clients change the door, remove the yard and add a gate."""
    service, state = FakeService(), StateFile(path, lambda: configured)
    for name, stream in state.streams().items():
        await service.streams.add(name, stream.url, stream.settings)
    service.streams.change("door", StreamSettings(every=5, mask=(((0, 0), (1, 0), (1, 1)),), labels={"site": "n"}))
    await service.streams.remove("yard")
    await service.streams.add("gate", GATE.url, GATE.settings, scope=GATE.scope)
    for name in ("door", "yard", "gate"):
        await state.save(service.streams, name)
    state.close()
    return service


async def test_restart_brings_changes_back(tmp_path: Path) -> None:
    path, configured = tmp_path / "state.json", {"door": DOOR, "yard": YARD}
    service = await changed(path, configured)
    door = StreamConfig(URL, service.streams.get("door").settings)
    assert StateFile(path, lambda: configured).streams() == {"door": door, "gate": GATE}
    await service.streams.remove("gate")
    state = StateFile(path, lambda: configured)
    await state.save(service.streams, "gate")
    assert StateFile(path, lambda: configured).streams() == {"door": door}
    await service.streams.close()


async def test_entry_changed_in_configuration_file_wins(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    service = await changed(path, {"door": DOOR, "yard": YARD})
    now = {"door": StreamConfig(URL, StreamSettings(every=2)), "yard": StreamConfig("rtsp://yard/2")}
    assert StateFile(path, lambda: now).streams() == {**now, "gate": GATE}
    assert list(StateFile(path, dict).streams()) == ["gate"]
    await service.streams.close()


async def test_state_is_private_and_replaced_atomically(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        service = await changed(tmp_path / "state.json", {"door": DOOR, "yard": YARD})
    finally:
        os.umask(old)
    assert os.listdir(tmp_path) == ["state.json"]  # noqa: PTH208
    assert stat.S_IMODE(os.stat(tmp_path / "state.json").st_mode) == 0o600  # noqa: PTH116
    await service.streams.close()


async def test_source_that_is_gone_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, film = tmp_path / "state.json", tmp_path / "film.mp4"
    film.write_bytes(b"x")
    service, state = FakeService(), StateFile(path, dict)
    await service.streams.add("film", str(film))
    await state.save(service.streams, "film")
    film.unlink()
    assert StateFile(path, dict).streams() == {}
    assert "stream film" in caplog.text and "no such file" in caplog.text
    film.write_bytes(b"x")
    assert list(StateFile(path, dict).streams()) == ["film"]
    await service.streams.close()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"version": 2, "streams": {}}', '{"version": 1, "streams": {"../x": {"base": ""}}}',
     '{"version": 1, "streams": {"door": {"base": "", "url": "rtsp://u:hunter2@h", "settings": {"every": 0}}}}'],
)  # fmt: skip
def test_other_file_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "state.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        StateFile(path, dict)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_text() == content


async def test_unwritable_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        StateFile(tmp_path / "nowhere" / "state.json", dict)
    (tmp_path / "d").mkdir()
    service, state = FakeService(), StateFile(tmp_path / "d" / "state.json", dict)
    await service.streams.add("gate", "rtsp://gate/1")
    (tmp_path / "d" / "state.json").unlink()
    (tmp_path / "d").rmdir()
    with pytest.raises(StreamcapError, match="a restart will forget it"):
        await state.save(service.streams, "gate")
    assert json.loads(state._text())["streams"]["gate"]["url"] == "rtsp://gate/1"
    await service.streams.close()


async def test_removal_of_unknown_stream_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    path.write_text('{"version": 1, "streams": {"gate": {"base": ""}}}')
    assert StateFile(path, lambda: {"door": DOOR}).streams() == {"door": DOOR}
