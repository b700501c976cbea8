"""A camera's image becomes a caption on a websocket and in a file, over a real RTSP server."""

from __future__ import annotations

import json
import os
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from testbed.rtsp.camera import RtspServer
from testbed.service import Service, Viewer, wait_until
from tests.ffprobe import subtitle_times

pytestmark = pytest.mark.e2e

EVERY = "0.5"
READS = 100  # of each subtitle file


def seconds(caption: dict[str, Any]) -> float:
    return datetime.fromisoformat(caption["captured_at"]).timestamp()


def from_rtcp(captions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Finals with the capture time of the camera; before its first RTCP report they have the arrival time."""
    return [c for c in captions if c["captured_at_source"] == "rtcp"]


def srt_cues(path: Path) -> list[tuple[float, str]]:
    """Start in seconds and text of every cue."""
    cues = re.findall(r"(\d+):(\d\d):(\d\d),(\d{3}) --> \S+\n(.+?)\n\n", path.read_text(), re.DOTALL)
    return [
        (int(h) * 3600 + int(m) * 60 + int(s) + int(ms) / 1000, " ".join(text.split())) for h, m, s, ms, text in cues
    ]


def test_rtsp_captions_and_times_are_correct(cameras: RtspServer, tmp_path: Path) -> None:
    # Without the gate every sample is decoded and counted.
    with Service(f"door={cameras.url()}", "--every", EVERY, "--change-threshold", "0", out=tmp_path) as service:
        with Viewer(service, "?stream=door&interim=0") as viewer:
            viewer.until(lambda: len(from_rtcp(viewer.finals())) >= 24)
            finals = from_rtcp(viewer.finals())
        status, ended_in = service.terminate()
    assert status == 0
    assert ended_in < 5

    true = [c["text"] == cameras.sentence_at(seconds(c)) for c in finals]
    assert sum(true) >= 0.95 * len(true), [(c["text"], cameras.sentence_at(seconds(c))) for c in finals]
    assert len({c["text"] for c in finals}) >= 4

    # The output timeline and the camera's clock run together: their offset is one number.
    offset = seconds(finals[0]) - finals[0]["start"]
    assert all(abs(seconds(c) - c["start"] - offset) < 0.2 for c in finals)

    # Each cue begins with a scene, or with the first sample of it.
    cues = [cue for cue in srt_cues(tmp_path / "door.srt") if cue[0] >= finals[0]["start"]]
    assert len(cues) >= 4
    filed = {c["start"]: c["text"] for c in finals}
    right = [text == cameras.sentence_at(start + offset) for start, text in cues[:-1]]
    assert sum(right) >= 0.95 * len(right)
    assert all(any(abs(start - at) < 0.2 for at in filed) for start, _ in cues[:-1])
    assert [json.loads(line)["seq"] for line in (tmp_path / "door.jsonl").read_text().splitlines()]


def test_killed_camera_reconnects(cameras: RtspServer, tmp_path: Path) -> None:
    other = RtspServer(cameras.clip, paths=("steady",))
    with (
        other,
        Service(f"door={cameras.url()}", f"steady={other.url('steady')}", "--every", EVERY, out=tmp_path) as service,
        Viewer(service) as viewer,
    ):
        viewer.until(lambda: len(viewer.finals("door")) >= 2 and len(viewer.finals("steady")) >= 2)
        cameras.kill()
        viewer.until(lambda: "reconnecting" in viewer.states("door"))
        before = len(viewer.finals("door"))
        cameras.start()
        viewer.until(lambda: viewer.states("door")[-1] == "live" and len(viewer.finals("door")) >= before + 3)
        finals = viewer.finals("door")
        assert {c["epoch"] for c in finals} == {0, 1}
        starts = [c["start"] for c in finals]
        assert starts == sorted(starts)
        assert viewer.states("steady") == ["live"] or viewer.states("steady")[-1] == "live"
        assert "reconnecting" not in viewer.states("steady")
    times = subtitle_times(tmp_path / "door.srt")
    assert times == sorted(times)


def test_frozen_camera_resumes(cameras: RtspServer, tmp_path: Path) -> None:
    with (
        Service(
            f"door={cameras.url()}", "--every", EVERY, "--stall-after", "1", "--read-timeout", "3", out=tmp_path
        ) as service,
        Viewer(service) as viewer,
    ):
        viewer.until(lambda: len(viewer.finals()) >= 2)
        cameras.pause()
        viewer.until(lambda: "stalled" in viewer.states("door"))
        viewer.until(lambda: "reconnecting" in viewer.states("door"))
        before = len(viewer.finals())
        cameras.resume()
        viewer.until(lambda: len(viewer.finals()) >= before + 3)
        states = viewer.states("door")
        assert states.index("stalled") < states.index("reconnecting") and states[-1] == "live"
        starts = [c["start"] for c in viewer.finals()]
        assert starts == sorted(starts)
    times = subtitle_times(tmp_path / "door.srt")
    assert times == sorted(times)


def test_files_are_complete_at_any_time_and_after_kill(tmp_path: Path) -> None:
    srt, vtt = tmp_path / "scenes.srt", tmp_path / "scenes.vtt"
    with (
        Service("scenes:?seconds=0.6&rate=10", "--every", "0.1", "--change-threshold", "0", out=tmp_path) as service,
        Viewer(service, "?stream=scenes&interim=0") as viewer,
        ThreadPoolExecutor(4) as readers,
    ):
        wait_until(vtt.exists, service.describe)
        # Two hundred reads while the files roll; ffprobe reports no error.
        reads = list(readers.map(subtitle_times, [srt, vtt] * READS))
        assert all(reads) and len(reads[-1]) > len(reads[1])
        before = len(viewer.finals())
        viewer.until(lambda: len(viewer.finals()) > before)
        service.kill()
        seen = viewer.finals()
    assert subtitle_times(srt) and subtitle_times(vtt)
    filed = [json.loads(line) for line in (tmp_path / "scenes.jsonl").read_text().splitlines()]
    assert len(filed) > 10
    assert [caption for caption in seen if caption not in filed] == []


@pytest.mark.parametrize("finals", [1, 4])
def test_kill_after_final_loses_nothing(tmp_path: Path, finals: int) -> None:
    with (
        Service("scenes:?seconds=0.6&rate=10", "--every", "0.1", "--change-threshold", "0", out=tmp_path) as service,
        Viewer(service, "?stream=scenes") as viewer,
    ):
        viewer.until(lambda: len(viewer.finals()) >= finals)
        os.kill(service.pid, signal.SIGKILL)
        seen = viewer.finals()
    filed = [json.loads(line) for line in (tmp_path / "scenes.jsonl").read_text().splitlines()]
    assert [caption for caption in seen if caption not in filed] == []


def test_restart_replays_missed_events(tmp_path: Path) -> None:
    arguments = ("scenes:?seconds=0.6&rate=10", "--every", "0.2", "--change-threshold", "0")
    with Service(*arguments, out=tmp_path) as service:
        with Viewer(service, "?stream=scenes&interim=0") as viewer:
            viewer.until(lambda: len(viewer.finals()) >= 3)
        seen = viewer.finals()
        wait_until(lambda: len((tmp_path / "scenes.jsonl").read_text().splitlines()) >= len(seen) + 3, service.describe)
        service.kill()
    filed = [json.loads(line) for line in (tmp_path / "scenes.jsonl").read_text().splitlines()]
    missed = [c for c in filed if c["seq"] > seen[-1]["seq"]]
    with (
        Service(*arguments, out=tmp_path) as service,
        Viewer(service, f"?stream=scenes&interim=0&since={seen[-1]['seq']}") as viewer,
    ):
        viewer.until(lambda: len(viewer.finals()) >= len(missed) + 1)
        assert viewer.finals()[: len(missed)] == missed
        later = viewer.finals()[len(missed)]
        assert later["seq"] > filed[-1]["seq"]
        assert later["start"] >= filed[-1]["end"] - 0.001


def test_ctrl_c_stops_and_closes_last_cue(tmp_path: Path) -> None:
    with Service("scenes:", "--every", "30", out=tmp_path) as service:
        wait_until(lambda: (tmp_path / "scenes.jsonl").exists(), service.describe)
        with Viewer(service) as viewer:
            status, ended_in = service.terminate(signal.SIGINT)
            viewer.until(lambda: "ended" in viewer.states("scenes"))
    assert status == 0
    assert ended_in < 5
    (start, end), *_ = subtitle_times(tmp_path / "scenes.srt")
    assert end - start < 30_000
    assert not [line for line in service.errors if "Traceback" in line]
