"""HLS subtitles: a rolling WebVTT rendition (RFC 8216 §3.5 and §6.2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamcap.captions.cue import Cue
from streamcap.captions.formats import vtt

SEGMENT_MS = 6000
# Merging may still move the end of a cue a little. A segment is published once the stream is this far past its end, and
# never changes afterwards.
SETTLE_MS = 1000
# First timestamp of ffmpeg's MPEG-TS muxer: 1.4 s at 90 kHz.
FFMPEG_MPEGTS = 126_000
MAX_PLAYLIST_BYTES = 1_000_000
# Of the two playlist lines of a segment, without the query.
_SEGMENT_BYTES = 40


@dataclass(frozen=True, slots=True)
class PlaylistWindow:
    """Available segments: numbers `first` until before `stop`. Segment N covers the N-th SEGMENT_MS of the stream.

    `ended`: no more segments will follow.
    """

    first: int
    stop: int
    ended: bool = False


def playlist_window(cues: Sequence[Cue], seen_ms: int, *, ended: bool) -> PlaylistWindow:
    """The segments of the rolling `cues` of a stream that is captioned up to `seen_ms`."""
    complete = max(0, seen_ms - SETTLE_MS) // SEGMENT_MS
    stop = -(-cues[-1].end_ms // SEGMENT_MS) if ended and cues else complete
    first = min(cues[0].start_ms // SEGMENT_MS, stop) if cues else stop
    return PlaylistWindow(first, stop, ended)


def playlist(segments: PlaylistWindow, query: str = "") -> str:
    """The media playlist; `query` is added to each segment's address.

    The oldest segments are left out if the playlist would exceed MAX_PLAYLIST_BYTES.
    """
    suffix = f"?{query}" if query else ""
    first = max(segments.first, segments.stop - MAX_PLAYLIST_BYTES // (_SEGMENT_BYTES + len(suffix)))
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:3",
        f"#EXT-X-TARGETDURATION:{-(-SEGMENT_MS // 1000)}",
        f"#EXT-X-MEDIA-SEQUENCE:{first}",
    ]
    for number in range(first, segments.stop):
        lines += [f"#EXTINF:{SEGMENT_MS / 1000:.3f},", f"{number}.vtt{suffix}"]
    if segments.ended:
        lines.append("#EXT-X-ENDLIST")
    return "\n".join(lines) + "\n"


def segment(cues: Iterable[Cue], number: int, mpegts: int = FFMPEG_MPEGTS) -> str:
    """Segment `number`, with the part of each cue inside it. A segment without cues is legal.

    Cues are clipped to the segment because their end moves while the scene does not change: a player would show each
    version of an unclipped cue.

    mpegts: 90 kHz timestamp in the video's transport stream at time zero of this stream.
    """
    start, end = number * SEGMENT_MS, (number + 1) * SEGMENT_MS
    header = f"WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:{mpegts}\n\n"
    inside = (cue for cue in cues if cue.start_ms < end and cue.end_ms > start)
    return vtt.render((Cue(max(cue.start_ms, start), min(cue.end_ms, end), cue.text) for cue in inside), header)
