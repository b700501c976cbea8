"""Which rendition of an HLS master playlist is read: one, and no larger than a model can use."""

from __future__ import annotations

import re
from urllib.parse import urljoin

MIN_HEIGHT = 360
"""Models see 224 to 336 pixels: more than this is downloaded and decoded in vain."""
_STREAM = re.compile(
    r"^#EXT-X-STREAM-INF:(?P<attributes>[^\r\n]*)[\r\n]+(?:#[^\r\n]*[\r\n]+)*(?P<uri>[^#\s][^\r\n]*)", re.M
)
_HEIGHT = re.compile(r"(?:^|,)RESOLUTION=\d+x(\d+)")
_BANDWIDTH = re.compile(r"(?:^|,)BANDWIDTH=(\d+)")
_CODECS = re.compile(r'(?:^|,)CODECS="([^"]*)"')
_SOUND = ("mp4a", "ac-3", "ec-3", "opus", "flac", "alac")


def choose_rendition(playlist: str, url: str) -> str | None:
    """The absolute URL of the rendition to read; None where `playlist`, which came from `url`, is no master.

    The smallest of at least 360 lines, else the largest; among equals the one of least bandwidth.
    """
    found: list[tuple[int, int, str]] = []
    for match in _STREAM.finditer(playlist):
        attributes = match["attributes"]
        codecs = _CODECS.search(attributes)
        if codecs and all(codec.strip().startswith(_SOUND) for codec in codecs[1].split(",")):
            continue
        height, bandwidth = _HEIGHT.search(attributes), _BANDWIDTH.search(attributes)
        lines = min(int(height[1][:6]), 100_000) if height else 0
        found.append((lines, int(bandwidth[1][:12]) if bandwidth else 0, urljoin(url, match["uri"].strip())))
    if not found:
        return None
    enough = [one for one in found if one[0] >= MIN_HEIGHT]
    if enough:
        return min(enough)[2]
    return min(found, key=lambda one: (-one[0], one[1]))[2]
