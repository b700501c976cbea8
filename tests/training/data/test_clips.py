"""Training decodes clips as `streamcap caption` does."""

from __future__ import annotations

from pathlib import Path

import av

from streamcap.image_spec import ImageSpec
from streamcap.training.data.clips import read_clip
from tests.media.numbered_frames import numbered, read_number, write_numbered


def test_read_clip_applies_display_matrix(tmp_path: Path) -> None:
    path = tmp_path / "mirrored.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.set_display_rotation(0, hflip=True)
        frame = av.VideoFrame.from_ndarray(numbered(3, 80, 48), format="rgb24").reformat(format="yuv420p")
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    (pixels,) = read_clip(path, 1, ImageSpec(60, 20, "squash"))
    assert read_number(pixels) == 0b1100000000


def test_read_clip_takes_the_best_video(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "two.mkv", [0, 100, 200], others=["small video"])
    pixels = read_clip(path, 3, ImageSpec(60, 20, "squash"))
    assert [read_number(one) for one in pixels] == [0, 1, 2]
