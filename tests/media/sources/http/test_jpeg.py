from __future__ import annotations

import io

import pytest
from PIL import Image

from streamcap.media.sources.http.jpeg import jpeg_size


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_size_is_read_from_the_header(progressive: bool) -> None:
    out = io.BytesIO()
    Image.new("RGB", (301, 77)).save(out, "JPEG", progressive=progressive, exif=b"Exif\0\0" + bytes(5000))
    assert jpeg_size(out.getvalue()) == (301, 77)
    assert jpeg_size(out.getvalue()[:5050]) is None
    assert jpeg_size(b"") is None
    assert jpeg_size(b"\xff\xd8" + b"\xff" * 50) is None
