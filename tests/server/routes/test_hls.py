"""The rolling subtitle rendition over HTTP."""

from __future__ import annotations

import subprocess

import pytest

from streamcap.captions.event import StreamState
from testbed.programs import require_program
from testbed.timeouts import TIMEOUT_FACTOR
from tests.server.conftest import Server, Start

pytestmark = pytest.mark.slow


async def test_playlist_rolls_with_captions(server: Server) -> None:
    door = server.streams.get("door")
    playlist = "/streams/door/hls/captions.m3u8"
    empty = await server.http.get(playlist)
    assert empty.status_code == 200
    assert "EXTINF" not in empty.text
    for number in range(14):
        door.final(f"caption {number}")
    rolled = await server.http.get(playlist)
    assert rolled.headers["content-type"].startswith("application/vnd.apple.mpegurl")
    assert [line for line in rolled.text.splitlines() if line.endswith(".vtt")] == ["0.vtt", "1.vtt"]
    segment = await server.http.get("/streams/door/hls/1.vtt?mpegts=900000")
    assert "MPEGTS:900000" in segment.text
    assert segment.text.count("-->") == 6
    assert (await server.http.get("/streams/door/hls/2.vtt")).status_code == 404
    assert (await server.http.get("/streams/door/hls/0.vtt?mpegts=-1")).status_code == 400
    assert (await server.http.get("/streams/nobody/hls/captions.m3u8")).status_code == 404
    door.status(StreamState.ENDED)
    assert (await server.http.get(playlist)).text.endswith("#EXT-X-ENDLIST\n")


async def test_token_is_passed_to_segments(start: Start) -> None:
    server = await start(view_tokens=frozenset({"t&t"}))
    door = await server.streams.add("door", "rtsp://door")
    for number in range(8):
        door.final(f"caption {number}")
    playlist = await server.http.get("/streams/door/hls/captions.m3u8?token=t%26t&mpegts=0")
    (segment,) = [line for line in playlist.text.splitlines() if ".vtt" in line]
    assert (await server.http.get(f"/streams/door/hls/{segment}")).status_code == 200


async def test_playlist_repeats_no_long_query(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    door = server.streams.get("door")
    for number in range(60):
        door.final(f"caption {number}")
    playlist = "/streams/door/hls/captions.m3u8"
    for query, status in (("x" * 60_000, 414), ("x" * 7000, 414), ("&" * 7000, 200), ("%E2" * 400, 414)):
        refused = await server.http.get(f"{playlist}?{query}=1")
        assert refused.status_code == status
        assert len(refused.content) < 2000
    monkeypatch.setattr("streamcap.captions.formats.hls.MAX_PLAYLIST_BYTES", 2000)
    most = await server.http.get(f"{playlist}?x={'y' * 900}")
    assert len(most.content) < 2500
    # The newest segments remain, with unchanged numbers.
    assert most.text.count(".vtt?x=") == 2
    assert "#EXT-X-MEDIA-SEQUENCE:7\n" in most.text


async def test_ffmpeg_plays_hls(server: Server) -> None:
    import asyncio

    ffprobe = require_program("ffprobe", "it plays the playlist")
    door = server.streams.get("door")
    for number in range(14):
        door.final(f"caption {number}")
    door.status(StreamState.ENDED)
    asked = (
        *(ffprobe, "-v", "error", "-allowed_extensions", "ALL", "-extension_picky", "0", "-show_entries"),
        *("packet=pts_time", "-of", "csv=p=0", f"{server.url}/streams/door/hls/captions.m3u8"),
    )
    done = await asyncio.to_thread(subprocess.run, asked, capture_output=True, text=True, timeout=TIMEOUT_FACTOR)
    times = {float(line.split(",")[0]) for line in done.stdout.split() if line[0].isdigit()}
    assert times == {float(number) for number in range(14)}, done.stderr
