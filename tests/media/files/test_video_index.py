"""`VideoIndex`: which frames are selected."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.errors import InputError
from streamcap.media.files.video_index import Keyframe, VideoIndex


def index(*pts: int, end: int | None = None, keys: tuple[int, ...] = (0,), origin: int = 0) -> VideoIndex:
    keyframes = tuple(Keyframe(pts[key], pts[key]) for key in keys)
    return VideoIndex(Fraction(1, 1000), origin, pts, pts[-1] + 100 if end is None else end, keyframes, unbroken=True)


def test_shown_at_gives_latest_started_frame() -> None:
    film = index(100, 200, 1000)
    assert [film.shown_at(stamp) for stamp in (0, 100, 199, 200, 999, 1000, 5000)] == [0, 0, 0, 1, 1, 2, 2]


def test_spread_is_even_in_time() -> None:
    assert index(0, 10, 20, 30, 500, end=1000).spread(2) == [0, 4]
    assert index(*range(0, 1000, 100)).spread(5) == [0, 2, 4, 6, 8]


def test_spread_beyond_length_gives_each_frame_once() -> None:
    assert index(0, 100, 200).spread(50) == [0, 1, 2]


@pytest.mark.timeout(20)
def test_more_captions_than_frames_cost_no_time() -> None:
    film = index(0, 100, 250, 1000)
    assert film.spread(10**20) == film.every(1e-15) == [0, 1, 2, 3]
    assert film.windows(10**20, 2) == film.windows_every(1e-15, 2) == [[0, 0], [1, 1], [2, 2], [3, 3]]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=12), st.integers(1, 200))
def test_selection_is_that_of_every_stamp(spacings: list[int], count: int) -> None:
    film = index(*itertools.accumulate(spacings))
    step = Fraction(film.end - film.pts[0], count)
    stamps = [film.pts[0] + number * step for number in range(count)]
    assert film.spread(count) == list(dict.fromkeys(map(film.shown_at, stamps)))
    pieces = [[n for n, pts in enumerate(film.pts) if stamp <= pts < stamp + step] for stamp in stamps]
    assert film.windows(count, 2) == [[piece[0], piece[-1]] for piece in pieces if piece]


def test_every_skips_repeated_frames() -> None:
    assert index(0, 400, 5000, 5400, end=6000).every(1.0) == [0, 1, 2]
    assert index(*range(0, 3000, 40), end=3000).every(1.0) == [0, 25, 50]
    assert index(0, 100, 200).every(60) == [0]
    assert index(*range(0, 1000, 100)).every(0.1) == list(range(10))


def test_windows_do_not_share_frames() -> None:
    film = index(*range(0, 1000, 100))
    assert film.windows(2, 3) == [[0, 2, 4], [5, 7, 9]]
    assert film.windows(1, 4) == [[0, 3, 6, 9]]
    assert film.windows(5, 4) == [[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5], [6, 6, 7, 7], [8, 8, 9, 9]]
    assert film.windows_every(0.4, 2) == [[0, 3], [4, 7], [8, 9]]
    assert film.windows(1, 1) == [[0]]


def test_window_without_new_frame_is_omitted() -> None:
    assert index(0, 3000, end=4000).windows(4, 2) == [[0, 0], [1, 1]]


def test_times_count_from_origin() -> None:
    film = index(90_000, 90_040, origin=90_000)
    assert (film.seconds(90_040), film.duration) == (0.04, 0.14)


def test_keyframe_before() -> None:
    film = index(*range(0, 1000, 100), keys=(0, 5))
    assert [film.keyframe_before(pts).pts for pts in (0, 499, 500, 900)] == [0, 0, 500, 500]


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
def test_invalid_interval(seconds: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        index(0).every(seconds)


def test_invalid_count() -> None:
    with pytest.raises(InputError, match="at least 1"):
        index(0).spread(0)
    with pytest.raises(InputError, match="at least 1"):
        index(0).windows(0, 4)


@given(
    steps=st.lists(st.integers(1, 500), min_size=1, max_size=60),
    count=st.integers(1, 80),
    length=st.integers(1, 30),
    seconds=st.floats(0.001, 20),
)
def test_selected_frames_are_sorted_and_exist(steps: list[int], count: int, length: int, seconds: float) -> None:
    pts = [sum(steps[:number]) for number in range(len(steps))]
    film = index(*pts, end=sum(steps))
    for chosen in (film.spread(count), film.every(seconds)):
        assert chosen[0] == 0
        assert chosen == sorted(set(chosen))
        assert chosen[-1] < len(pts)
    assert len(film.spread(count)) <= count
    for windows in (film.windows(count, length), film.windows_every(seconds, length)):
        assert all(len(window) == length and window == sorted(window) for window in windows)
        assert all(before[-1] < after[0] for before, after in itertools.pairwise(windows))
