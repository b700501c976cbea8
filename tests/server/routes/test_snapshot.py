"""`GET /streams/NAME/snapshot.jpg`."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from streamcap.media.frame import Frame
from streamcap.media.orientation import show
from streamcap.server import snapshots
from tests.media.fakes import drawn, made_frame
from tests.server.conftest import Server

pytestmark = pytest.mark.slow


def shown(jpeg: bytes) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(jpeg)) as image:
        assert image.format == "JPEG"
        return np.asarray(image).astype(int)


def frame_of(video_frame: av.VideoFrame, time: float = 0.0) -> Frame:
    return replace(made_frame(time), video_frame=video_frame)


async def test_snapshot_is_the_newest_frame(server: Server) -> None:
    for number in range(2):
        video_frame = drawn(320, 180, number / 2)
        server.streams.get("door").frame = frame_of(video_frame, number / 2)
        answer = await server.http.get("/streams/door/snapshot.jpg")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert answer.headers["Cache-Control"] == "no-store"
        assert np.abs(shown(answer.content) - show(video_frame).astype(int)).mean() < 4


async def test_snapshot_of_large_frame_is_scaled_down(server: Server) -> None:
    server.streams.get("door").frame = frame_of(drawn(3840, 2160))
    answer = await server.http.get("/streams/door/snapshot.jpg")
    assert shown(answer.content).shape == (1080, 1920, 3)


async def test_snapshot_without_frame_or_stream(server: Server) -> None:
    answer = await server.http.get("/streams/door/snapshot.jpg")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "no frame yet" in answer.json()["detail"]
    assert (await server.http.get("/streams/nobody/snapshot.jpg")).status_code == 404


async def test_frame_is_encoded_once_for_many_clients(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return show(*args, **options)

    monkeypatch.setattr(snapshots, "show", counted)
    server.streams.get("door").frame = frame_of(drawn(320, 180))
    answers = await asyncio.gather(*(server.http.get("/streams/door/snapshot.jpg") for _ in range(12)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(calls) == 1
