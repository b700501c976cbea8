"""`SelectiveDecoder`: whatever is left out, each frame equals that of a decoder that gets everything."""

from __future__ import annotations

import io
import random
from fractions import Fraction
from functools import cache

import av
import numpy as np
import pytest

from streamcap.media.demand import FrameDemand
from streamcap.media.sources.decoding import selective_decoder
from streamcap.media.sources.decoding.decode_policy import DecodePolicy
from streamcap.media.sources.decoding.selective_decoder import SelectiveDecoder

pytestmark = pytest.mark.slow

RATE = 10
SECONDS = 20
STREAMS = {
    "plain": {"g": "10", "bf": "0"},
    "reordered": {"g": "10", "bf": "2", "x264-params": "b-pyramid=strict:open-gop=0:scenecut=0"},
    "open": {"g": "10", "bf": "2", "x264-params": "open-gop=1:scenecut=0"},
    "long": {"g": "40", "bf": "0"},
}


@cache
def film(kind: str) -> bytes:
    """Noise that moves, so that a missing reference shows at once."""
    rng = np.random.default_rng(1)
    ground = rng.integers(0, 255, (48, 480), np.uint8)
    out = io.BytesIO()
    with av.open(out, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "superfast", **STREAMS[kind]}
        for number in range(SECONDS * RATE):
            gray = np.ascontiguousarray(ground[:, number : number + 64])
            frame = av.VideoFrame.from_ndarray(np.repeat(gray[..., None], 3, 2), format="rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return out.getvalue()


@cache
def whole(kind: str) -> dict[int, bytes]:
    with av.open(io.BytesIO(film(kind))) as container:
        return {frame.pts: frame.to_ndarray().tobytes() for frame in container.decode(video=0)}


def decoded(kind: str, demand: FrameDemand, change: random.Random | None = None) -> tuple[list[av.VideoFrame], int]:
    """The frames, of which `demand.every` seconds apart are captioned, and how many packets were skipped."""
    frames: list[av.VideoFrame] = []
    due = 0.0
    errors: list[Exception] = []
    with av.open(io.BytesIO(film(kind))) as container:
        policy = DecodePolicy(demand)
        decoder = SelectiveDecoder(policy, lambda _, error: errors.append(error))
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "SLICE", 1
        for packet in container.demux(stream):
            if change is not None and change.random() < 0.05:
                demand.viewers = change.randrange(2)
                demand.every = change.choice((0.5, 1.0, 1.3, 3.0))
                demand.after = change.choice((0.0, 0.1, 0.2, 0.4))
            for frame in decoder.decode(packet):
                frames.append(frame)
                time = float(frame.pts * frame.time_base)
                if time >= due - policy.spacing / 2:
                    due = time + demand.every
                demand.wait = due - time
                policy.took(time)
    assert not errors
    return frames, decoder.skipped


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("seed", range(4))
def test_switching_never_shows_a_broken_picture(kind: str, seed: int) -> None:
    frames, skipped = decoded(kind, FrameDemand(every=1.0), random.Random(seed))
    right = whole(kind)
    assert all(frame.to_ndarray().tobytes() == right[frame.pts] for frame in frames)
    order = [frame.pts for frame in frames]
    assert order == sorted(set(order))
    assert skipped


@pytest.mark.parametrize("kind", ["plain", "reordered", "open"])
def test_keyframe_comes_out_when_it_went_in(kind: str) -> None:
    frames, skipped = decoded(kind, FrameDemand(every=1.0))
    late = [frame for frame in frames if float(frame.pts * frame.time_base) > 8]
    assert 10 <= len(late) <= 13 and all(frame.key_frame for frame in late)
    assert skipped > 100


def test_frame_after_a_keyframe_equals_full_decoding() -> None:
    frames, skipped = decoded("plain", FrameDemand(every=1.0, after=0.2))
    right = whole("plain")
    late = [frame for frame in frames if float(frame.pts * frame.time_base) > 8]
    assert 10 <= len(late) <= 13
    assert all(frame.pts % (90_000) == late[0].pts % 90_000 and not frame.key_frame for frame in late)
    assert all(frame.to_ndarray().tobytes() == right[frame.pts] for frame in frames)
    assert skipped > 80


@pytest.mark.parametrize("kind", ["reordered", "open"])
def test_reordered_pictures_are_keyframes_anyway(kind: str) -> None:
    frames, _ = decoded(kind, FrameDemand(every=1.0, after=0.2))
    late = [frame for frame in frames if float(frame.pts * frame.time_base) > 8]
    assert 10 <= len(late) <= 13 and all(frame.key_frame for frame in late)


def test_full_memory_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selective_decoder, "MAX_HELD_PACKETS", 5)
    frames, skipped = decoded("plain", FrameDemand(every=1.0))
    right = whole("plain")
    assert all(frame.to_ndarray().tobytes() == right[frame.pts] for frame in frames)
    assert skipped


def test_gradual_refresh_is_decoded_completely() -> None:
    STREAMS["refresh"] = {"g": "10", "bf": "0", "x264-params": "intra-refresh=1"}
    frames, skipped = decoded("refresh", FrameDemand(every=1.0))
    right = whole("refresh")
    assert all(frame.to_ndarray().tobytes() == right[frame.pts] for frame in frames)
    assert len(frames) == len(right) and not skipped
