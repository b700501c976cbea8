"""Which video stream is chosen; the same for `caption` and `serve`."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from streamcap.media.files.video_file import VideoFile
from streamcap.media.sources.libav.source import LibavSource
from streamcap.media.sources.options import SourceOptions
from tests.media.numbered_frames import write_numbered

CHOICE = "2 videos in it; taking stream 1 (h264 80x48), not stream 0 (mpeg4 16x16)"


def test_best_video_is_the_same_in_caption_and_serve(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_numbered(tmp_path / "two.mkv", [0, 100], others=["small video"])
    with VideoFile(path) as video:
        assert (video.width, video.height) == (80, 48)
        assert video.choice == CHOICE
    source = LibavSource(str(path), SourceOptions(realtime=False))
    with caplog.at_level(logging.INFO):
        source.open()
    try:
        assert next(iter(source.frames())).size == (80, 48)
    finally:
        source.close()
    assert CHOICE in caplog.text


def test_one_video_needs_no_choice(tmp_path: Path) -> None:
    with VideoFile(write_numbered(tmp_path / "one.mp4", [0, 100], others=["audio"])) as video:
        assert video.choice is None
