from __future__ import annotations

from streamcap.captions.cue import Cue
from streamcap.captions.track import CaptionTrack
from tests.captions.fakes import LATENCY, at


def test_interims_and_final_share_one_id() -> None:
    track = CaptionTrack("door", every=1.0)
    first = track.interim(at(1.0), "a man", LATENCY)
    second = track.interim(at(1.0), "a man opens", LATENCY)
    final = track.final(at(1.0), "a man opens a door", -0.4, LATENCY)
    assert [c.id for c in (first, second, final)] == ["door-1"] * 3
    assert [c.revision for c in (first, second, final)] == [1, 2, 3]
    assert [c.is_final for c in (first, second, final)] == [False, False, True]
    assert first.logprob is None and final.logprob == -0.4
    assert track.final(at(2.0), "a door", -0.1, LATENCY).id == "door-2"


def test_extend_moves_end_of_caption_and_cue() -> None:
    track = CaptionTrack("door", every=1.0)
    track.final(at(1.0), "a door", -0.4, LATENCY)
    extend = track.extend(at(2.0))
    assert extend is not None and (extend.id, extend.end) == ("door-1", 3.0)
    assert track.cues == [Cue(1000, 3000, "a door")]


def test_extend_needs_a_final_in_same_epoch() -> None:
    track = CaptionTrack("door", every=1.0)
    assert track.extend(at(1.0)) is None
    track.final(at(1.0, epoch=0), "a door", -0.4, LATENCY)
    assert track.extend(at(2.0, epoch=1)) is None


def test_interim_id_is_not_reused() -> None:
    track = CaptionTrack("door", every=1.0)
    track.final(at(1.0), "a door", -0.4, LATENCY)
    shown = track.interim(at(2.0), "a", LATENCY)
    track.extend(at(2.0))
    assert track.final(at(3.0), "a cat", -0.4, LATENCY).id != shown.id


def test_close_ends_last_cue_at_stream_end() -> None:
    track = CaptionTrack("door", every=10.0)
    track.final(at(1.0), "a door", -0.4, LATENCY)
    extend = track.close(4.5)
    assert extend is not None and extend.end == 4.5
    assert track.cues == [Cue(1000, 4500, "a door")]
    assert track.close(4.5) is None


def test_subtitle_window_keeps_newest_cue() -> None:
    track = CaptionTrack("door", every=1.0, window=10.0)
    for second in range(100):
        track.final(at(float(second)), f"{second} dogs", -0.4, LATENCY)
    assert track.cues[0].start_ms >= 89_000
    assert track.cues[-1] == Cue(99_000, 100_000, "99 dogs")
    assert len(track.cues) <= 11


def test_whitespace_is_collapsed() -> None:
    track = CaptionTrack("door", every=1.0)
    assert track.final(at(1.0), " a door\n\n opens ", -0.4, LATENCY).text == "a door opens"


def test_apply_repeats_what_another_track_published() -> None:
    track, shown = CaptionTrack("door", every=1.0), CaptionTrack("door", every=1.0)
    shown.apply(track.interim(at(0.0), "a", LATENCY))
    first = track.final(at(0.0), "a dog", -0.5, LATENCY)
    shown.apply(first)
    lost = track.final(at(1.0), "a cat", -0.5, LATENCY)
    extend = track.extend(at(2.0))
    assert extend is not None
    shown.apply(extend)  # of a final that was not published
    assert (shown.last, shown.end) == (first, 1.0)
    shown.apply(lost)
    shown.apply(extend)
    assert (shown.cues, shown.last, shown.end) == (track.cues, lost, 3.0)
