"""Frames and files for the media tests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from streamcap.media.frame import Frame
from streamcap.media.scenes import Scene, draw

SCENE = Scene("dog", "brown", 2, "run", "grass", look=5)


def made_frame(time: float, *, epoch: int = 0, arrived: float | None = None, size: tuple[int, int] = (16, 16)) -> Frame:
    """A frame at media `time` that arrived without delay, unless `arrived` is given."""
    at = time if arrived is None else arrived
    return Frame(
        video_frame=av.VideoFrame(*size, "yuv420p"),
        pts=round(time * 90_000),
        time_base=Fraction(1, 90_000),
        time=time,
        epoch=epoch,
        arrived=at,
        captured_at=at,
        captured_at_source="arrival",
    )


def drawn(width: int, height: int, time: float = 0.0) -> av.VideoFrame:
    """A synthetic scene as a decoded frame."""
    pixels = draw(SCENE, time, width, height)
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")


def write_video(
    path: Path,
    *,
    seconds: float = 1.0,
    rate: int = 10,
    size: tuple[int, int] = (160, 96),
    codec: str = "libx264",
    video: bool = True,
    audio: bool = False,
    container: str | None = None,
) -> Path:
    """A short film of one synthetic scene."""
    with av.open(str(path), "w", format=container) as out:
        streams = []
        if video:
            stream = out.add_stream(codec, rate=rate)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            if codec == "libx264":
                stream.options = {"preset": "ultrafast", "g": str(rate), "bf": "0"}
            elif codec == "mjpeg":
                stream.pix_fmt = "yuvj420p"
            streams.append(stream)
        sound = out.add_stream("aac", rate=8000, layout="mono") if audio else None
        for number in range(round(seconds * rate) if video else 0):
            video_frame = drawn(*size, number / rate)
            if codec == "mjpeg":
                video_frame = video_frame.reformat(format="yuvj420p")
            video_frame.pts, video_frame.time_base = number, Fraction(1, rate)
            out.mux(streams[0].encode(video_frame))
        if video:
            out.mux(streams[0].encode(None))
        if sound is not None:
            for number in range(8):
                block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                block.sample_rate, block.pts = 8000, number * 1024
                out.mux(sound.encode(block))
            out.mux(sound.encode(None))
    return path
