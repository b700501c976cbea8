"""HLS subtitles: a rolling WebVTT rendition (RFC 8216 §3.5 and §6.2.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamcap.captions.cue import Cue
from streamcap.captions.formats import vtt

SEGMENT_MS = 6000
# A cue's end may still move a little after its moment (flicker is closed, short cues are lengthened): a segment is
# published once this much has been seen past its end, and then never changes.
SETTLE_MS = 1000
# What ffmpeg's MPEG-TS muxer begins at: 1.4 s of the 90 kHz clock.
FFMPEG_MPEGTS = 126_000
MAX_PLAYLIST_BYTES = 1_000_000
# Of a segment's two lines, without the query.
_SEGMENT_BYTES = 40


@dataclass(frozen=True, slots=True)
class PlaylistWindow:
    """The segments there are: numbers `first` until before `stop`, segment N being the N-th SEGMENT_MS of the stream.

    `ended`: none will follow.
    """

    first: int
    stop: int
    ended: bool = False


def playlist_window(cues: Sequence[Cue], seen_ms: int, *, ended: bool) -> PlaylistWindow:
    """The window that `cues` (the rolling ones) fill when the stream has been captioned until `seen_ms`."""
    whole = max(0, seen_ms - SETTLE_MS) // SEGMENT_MS
    stop = -(-cues[-1].end_ms // SEGMENT_MS) if ended and cues else whole
    first = min(cues[0].start_ms // SEGMENT_MS, stop) if cues else stop
    return PlaylistWindow(first, stop, ended)


def playlist(segments: PlaylistWindow, query: str = "") -> str:
    """The media playlist; `query` is added to each segment's address.

    Of more segments than MAX_PLAYLIST_BYTES have room for, the oldest are left out.
    """
    suffix = f"?{query}" if query else ""
    first = max(segments.first, segments.stop - MAX_PLAYLIST_BYTES // (_SEGMENT_BYTES + len(suffix)))
    wrap_lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:3",
        f"#EXT-X-TARGETDURATION:{-(-SEGMENT_MS // 1000)}",
        f"#EXT-X-MEDIA-SEQUENCE:{first}",
    ]
    for number in range(first, segments.stop):
        wrap_lines += [f"#EXTINF:{SEGMENT_MS / 1000:.3f},", f"{number}.vtt{suffix}"]
    if segments.ended:
        wrap_lines.append("#EXT-X-ENDLIST")
    return "\n".join(wrap_lines) + "\n"


def segment(cues: Iterable[Cue], number: int, mpegts: int = FFMPEG_MPEGTS) -> str:
    """Segment `number`: the part of every cue that lies in it; one without cues is legal.

    A cue's end may move for as long as its image stays the same: written whole, it would differ from segment to
    segment, and a player would show each version.

    `mpegts`: 90 kHz timestamp, in the video's transport stream, of this stream's time zero.
    """
    start, end = number * SEGMENT_MS, (number + 1) * SEGMENT_MS
    header = f"WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:{mpegts}\n\n"
    inside = (cue for cue in cues if cue.start_ms < end and cue.end_ms > start)
    return vtt.render((Cue(max(cue.start_ms, start), min(cue.end_ms, end), cue.text) for cue in inside), header)
