"""`--mask NAME=X,Y X,Y X,Y` of `streamcap serve`."""

from __future__ import annotations

import pytest

from streamcap.cli.service.serve_options import with_masks
from streamcap.config.config import StreamConfig
from streamcap.errors import InputError
from streamcap.streams.settings import StreamSettings

SOURCES = [("door", "rtsp://door"), (None, "rtsp://yard")]


def test_masks_are_added_to_the_streams_they_name() -> None:
    streams, sources = with_masks(SOURCES, ["door=0,0 0.3,0 0.3,0.4", "door=0.5,0.5 1,0.5 1,1"])
    assert sources == [(None, "rtsp://yard")]
    mask = (((0, 0), (0.3, 0), (0.3, 0.4)), ((0.5, 0.5), (1, 0.5), (1, 1)))
    assert streams == {"door": StreamConfig("rtsp://door", StreamSettings(mask=mask))}
    assert with_masks(SOURCES, []) == ({}, SOURCES)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("0,0 1,0 1,1", "write NAME=X,Y X,Y X,Y with a name"),
        ("nobody=0,0 1,0 1,1", "'nobody=0,0 1,0 1,1': write NAME="),
        ("door=0,0 1,0", "--mask door: polygon 1 has 2 points"),
        ("door=0,0 1,0 2,1", "--mask door: polygon 1: a point is .* 0 to 1"),
        ("door=0,0 1,0 nan,1", "--mask door: polygon 1: a point is"),
        ("door=0,0 1,0 1", "write a polygon as X,Y X,Y X,Y"),
        ("door=left", "write a polygon as X,Y X,Y X,Y"),
    ],
)
def test_wrong_mask_is_refused(mask: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_masks(SOURCES, [mask])
