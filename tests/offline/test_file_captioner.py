"""Cues from captions, the selection of frames, and captions of damaged videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np
import pytest

from streamcap.captioner import Result, SearchOptions
from streamcap.captions.cue import Cue
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec
from streamcap.media.files.video_file import ChosenFrame, VideoFile
from streamcap.media.files.video_index import Keyframe, VideoIndex
from streamcap.offline.file_captioner import FileCaptioner, merged, select_frames, to_cues

if TYPE_CHECKING:
    from streamcap.captioner import Captioner


def test_cue_ends_where_next_begins() -> None:
    assert to_cues([(0.0, "a"), (1.5, "b")], 4.0) == [Cue(0, 1500, "a"), Cue(1500, 4000, "b")]
    assert to_cues([], 4.0) == []


def test_cue_has_positive_duration() -> None:
    assert to_cues([(0.0, "a"), (0.0004, "b"), (1.0, "c")], 1.0) == [Cue(0, 1000, "b"), Cue(1000, 1001, "c")]


def test_merging_keeps_times() -> None:
    cues = [Cue(0, 10, "a"), Cue(10, 30, "a"), Cue(30, 40, "b"), Cue(40, 50, "a")]
    assert merged(cues) == [Cue(0, 30, "a"), Cue(30, 40, "b"), Cue(40, 50, "a")]


INDEX = VideoIndex(Fraction(1, 10), 0, tuple(range(100)), 100, (Keyframe(0, 0),), unbroken=True)


def test_frame_selection_options() -> None:
    assert len(select_frames(INDEX, None)) == 10
    assert select_frames(INDEX, None, frames=2) == [[0], [50]]
    assert select_frames(INDEX, None, every=4) == [[0], [40], [80]]
    assert select_frames(INDEX, 3) == [[0, 50, 99]]
    assert [window[0] for window in select_frames(INDEX, 3, every=4)] == [0, 40, 80]
    with pytest.raises(InputError, match="not both"):
        select_frames(INDEX, None, frames=1, every=1)
    with pytest.raises(InputError, match="at least 1"):
        select_frames(INDEX, None, frames=0)


class DamagedVideo:
    """A video with some undecodable frames; the brightness of a frame is ten times its ordinal."""

    def __init__(self, decodable: set[int]) -> None:
        self.decodable = decodable

    def frames(self, ordinals: Sequence[int]) -> Iterator[ChosenFrame]:
        for ordinal in ordinals:
            if ordinal in self.decodable:
                pixels = np.full((16, 16, 3), 10 * ordinal, np.uint8)
                yield ChosenFrame(ordinal, ordinal, ordinal / 10, av.VideoFrame.from_ndarray(pixels, format="rgb24"))


class BrightnessCaptioner:
    """Its caption of a frame is the frame's ordinal, computed from the brightness."""

    image_spec = ImageSpec(16, 16)

    def __init__(self, clip_length: int | None) -> None:
        self.clip_length = clip_length

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(len(pixels), self.clip_length or 1, -1).mean(-1)

    def decode(self, embeddings: np.ndarray, search: SearchOptions) -> list[Result]:
        return [Result(" ".join(str(round(float(value) / 10)) for value in row), [], 0.0) for row in embeddings]


def captions_of(video: DamagedVideo, windows: list[list[int]], clip_length: int | None) -> list[tuple[float, str]]:
    captioner: Any = BrightnessCaptioner(clip_length)
    files = FileCaptioner(cast("Captioner", captioner), SearchOptions(beam_size=2), batch=2)
    return [(moment.seconds, result.text) for moment, result in files.video(cast(VideoFile, video), windows)]


def test_undecodable_frame_is_omitted() -> None:
    assert captions_of(DamagedVideo({0, 4, 6}), [[0], [2], [4], [6]], None) == [(0.0, "0"), (0.4, "4"), (0.6, "6")]


def test_undecodable_frame_in_clip_is_replaced() -> None:
    video = DamagedVideo({0, 4, 10, 12, 14})
    assert captions_of(video, [[0, 2, 4], [5, 6, 7], [10, 12, 14]], 3) == [(0.0, "0 0 4"), (1.0, "10 12 14")]


def test_invalid_batch_size() -> None:
    model: Any = SimpleNamespace(image_spec=ImageSpec(8, 8), clip_length=None)
    with pytest.raises(InputError, match="at least 1"):
        FileCaptioner(model, SearchOptions(), batch=0)
