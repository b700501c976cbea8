"""HLS subtitles by RFC 8216; each segment is checked with ffprobe."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from streamcap.captions.cue import Cue
from streamcap.captions.formats import hls
from streamcap.captions.track import CaptionTrack
from testbed.programs import require_program
from tests.captions.fakes import LATENCY, at
from tests.examples import examples

CUES = [Cue(1000, 4000, "a man opens a door"), Cue(5000, 13_000, "a dog <runs> & jumps"), Cue(25_000, 26_000, "a cat")]


def test_cue_is_in_every_segment_it_touches() -> None:
    texts = [hls.segment(CUES, number) for number in range(5)]
    assert all(text.startswith("WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:126000\n\n") for text in texts)
    assert [text.count("-->") for text in texts] == [2, 1, 1, 0, 1]
    assert "00:00:05.000 --> 00:00:06.000\n" in texts[0]
    assert "00:00:06.000 --> 00:00:12.000\n" in texts[1]
    assert "00:00:12.000 --> 00:00:13.000\n" in texts[2]


def test_extended_caption_keeps_published_segments() -> None:
    track = CaptionTrack("door", every=1.0)
    track.final(at(0.0), "a dog sleeps", -0.4, LATENCY)
    published: dict[int, str] = {}
    for second in range(1, 40):
        track.extend(at(float(second)))
        segments = hls.playlist_window(track.cues, 1000 * second, ended=False)
        for number in range(segments.first, segments.stop):
            text = hls.segment(track.cues, number)
            assert published.setdefault(number, text) == text
    times = [line for text in published.values() for line in re.findall(r"^\S+ --> \S+$", text, re.MULTILINE)]
    # Consecutive, so that no player shows two at once.
    assert times == [f"00:00:{6 * n:02}.000 --> 00:00:{6 * n + 6:02}.000" for n in range(6)]


def test_ffprobe_reads_segments(tmp_path: Path) -> None:
    ffprobe = require_program("ffprobe", "it reads the segments")
    path = tmp_path / "1.vtt"
    path.write_text(hls.segment(CUES, 1))
    asked = (ffprobe, "-v", "error", "-show_entries", "packet=pts_time,duration_time", "-of", "csv=p=0", str(path))
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert [float(part) for part in done.stdout.strip().split(",")[:2]] == [6.0, 6.0]


def test_segment_is_published_when_final() -> None:
    assert hls.playlist_window(CUES[:1], 6999, ended=False) == hls.PlaylistWindow(0, 0)
    assert hls.playlist_window(CUES[:1], 7000, ended=False) == hls.PlaylistWindow(0, 1)
    assert hls.playlist_window([], 0, ended=False) == hls.PlaylistWindow(0, 0)
    # The end of the stream publishes the last segment.
    assert hls.playlist_window(CUES, 26_000, ended=True) == hls.PlaylistWindow(0, 5, ended=True)
    # The window rolls: trimmed segments leave the playlist, and their numbers are not used again.
    assert hls.playlist_window(CUES[2:], 32_000, ended=False) == hls.PlaylistWindow(4, 5)


def test_playlist_follows_rfc_8216() -> None:
    text = hls.playlist(hls.PlaylistWindow(4, 6), "token=t")
    assert text.splitlines() == [
        "#EXTM3U",
        "#EXT-X-VERSION:3",
        "#EXT-X-TARGETDURATION:6",
        "#EXT-X-MEDIA-SEQUENCE:4",
        "#EXTINF:6.000,",
        "4.vtt?token=t",
        "#EXTINF:6.000,",
        "5.vtt?token=t",
    ]
    assert hls.playlist(hls.PlaylistWindow(4, 6, ended=True)).endswith("\n#EXT-X-ENDLIST\n")


@settings(deadline=None, derandomize=True, max_examples=examples(50))
@given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(1, 20_000), st.text()), max_size=20))
def test_segments_together_hold_every_cue(raw: list[tuple[int, int, str]]) -> None:
    cues = [Cue(start, start + length, text) for start, length, text in sorted(raw)]
    stop = max((cue.end_ms for cue in cues), default=0) // hls.SEGMENT_MS + 1
    shown = 0
    for number in range(stop):
        for times in re.findall(r"^(\S+) --> (\S+)$", hls.segment(cues, number), re.MULTILINE):
            start, end = map(_ms, times)
            assert number * hls.SEGMENT_MS <= start < end <= (number + 1) * hls.SEGMENT_MS
            shown += end - start
    assert shown == sum(cue.end_ms - cue.start_ms for cue in cues)


def _ms(timestamp: str) -> int:
    hours, minutes, seconds = timestamp.replace(".", "").split(":")
    return 3_600_000 * int(hours) + 60_000 * int(minutes) + int(seconds)
