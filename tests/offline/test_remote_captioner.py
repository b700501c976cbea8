"""Files captioned through a server, by the same client as live streams."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamcap.cli import main
from testbed.http.chat_server import ChatServer, Handler, Received, answering, chat_server, replying
from testbed.timeouts import TIMEOUT_FACTOR
from tests.media.fakes import write_video

pytestmark = pytest.mark.slow


@contextmanager
def running(handler: Handler) -> Iterator[ChatServer]:
    """A server on a thread of its own, since the command has its own event loop."""
    started, loop = threading.Event(), asyncio.new_event_loop()
    servers: list[ChatServer] = []
    end = asyncio.Event()

    async def serve() -> None:
        async with chat_server(handler) as server:
            servers.append(server)
            started.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert started.wait(TIMEOUT_FACTOR)
        yield servers[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()


def run(monkeypatch: pytest.MonkeyPatch, server: ChatServer, *arguments: object) -> int:
    command = ["streamcap", "caption", *arguments, "--model", "openai:m", "--model-url", server.url]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def picture(path: Path, red: int) -> Path:
    Image.fromarray(np.full((600, 1200, 3), (red, 0, 0), np.uint8)).save(path)
    return path


async def name_the_color(received: Received, writer: asyncio.StreamWriter) -> None:
    (image,) = received.images
    red = image.getpixel((1, 1))[0]  # type: ignore[index]
    await answering(f"The image shows red {round(red / 50) * 50} of {image.width}x{image.height}.")(received, writer)


def test_images_are_captioned_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [picture(tmp_path / f"{red}.png", red) for red in (50, 100, 150, 200, 250)]
    with running(name_the_color) as server:
        assert run(monkeypatch, server, *files, "--json", "--prompt", "Which color?", "--max-tokens", 9) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["text"] for entry in entries] == [f"Red {red} of 512x256." for red in (50, 100, 150, 200, 250)]
    assert {entry["logprob"] for entry in entries} == {None}
    assert (server.requests[0].prompt, server.requests[0].body["max_tokens"]) == ("Which color?", 9)


def test_video_is_captioned_at_its_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    film = write_video(tmp_path / "film.mp4", seconds=2, rate=10)
    with running(answering("A man.")) as server:
        assert run(monkeypatch, server, film, "-n", 2, "--format", "srt") == 0
    assert capsys.readouterr().out.count(" --> ") == 2 == len(server.requests)


def test_wrong_key_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(replying("401 Unauthorized", b"{}")) as server:
        assert run(monkeypatch, server, picture(tmp_path / "a.png", 50)) != 0
        assert len(server.requests) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("streamcap: ")]
    assert lines == [
        "streamcap: openai:m: 401: the key is wrong or missing; set STREAMCAP_MODEL_KEY or --model-key-file"
    ]


@pytest.mark.parametrize(
    "option", [("--beam", 1), ("--temperature", 0.5), ("--seed", 3), ("--device", "cpu"), ("--fit", "pad")]
)
def test_option_of_local_models_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: tuple[str, object]
) -> None:
    """The server decodes as it likes: an option without effect would mislead."""
    with running(answering("A man.")) as server:
        assert run(monkeypatch, server, picture(tmp_path / "a.png", 50), *option) == 2
        assert not server.requests
    assert capsys.readouterr().err == f"streamcap: {option[0]}: only for a local model, but --model is openai:m\n"
