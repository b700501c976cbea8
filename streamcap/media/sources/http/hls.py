"""HLS playlists as text: which rendition to read, and the URLs in it."""

from __future__ import annotations

import re
from urllib.parse import urljoin

PLAYLIST_START = b"#EXTM3U"
MIN_HEIGHT = 360
"""Models use 224 to 336 pixels; larger renditions waste bandwidth and CPU."""
_STREAM = re.compile(
    r"^#EXT-X-STREAM-INF:(?P<attributes>[^\r\n]*)[\r\n]+(?:#[^\r\n]*[\r\n]+)*(?P<uri>[^#\s][^\r\n]*)", re.M
)
_LINE_END = re.compile(r"\r\n|\r|\n")
_HEIGHT = re.compile(r"(?:^|,)RESOLUTION=\d+x(\d+)")
_BANDWIDTH = re.compile(r"(?:^|,)BANDWIDTH=(\d+)")
_CODECS = re.compile(r'(?:^|,)CODECS="([^"]*)"')
_URI_ATTRIBUTE = re.compile(r'(?P<before>[:,]URI=")(?P<uri>[^"\r\n]*)(?P<after>")')
_SOUND = ("mp4a", "ac-3", "ec-3", "opus", "flac", "alac")


def choose_rendition(playlist: str, url: str) -> str | None:
    """The absolute URL of the rendition to read; None if `playlist`, fetched from `url`, is not a master playlist.

    The smallest of at least 360 lines, else the largest; of equal ones the one of lowest bandwidth.
    """
    renditions: list[tuple[int, int, str]] = []
    for match in _STREAM.finditer(playlist):
        attributes = match["attributes"]
        codecs = _CODECS.search(attributes)
        if codecs and all(codec.strip().startswith(_SOUND) for codec in codecs[1].split(",")):
            continue
        height, bandwidth = _HEIGHT.search(attributes), _BANDWIDTH.search(attributes)
        lines = min(int(height[1][:6]), 100_000) if height else 0
        renditions.append((lines, int(bandwidth[1][:12]) if bandwidth else 0, _join(url, match["uri"].strip())))
    if not renditions:
        return None
    large_enough = [rendition for rendition in renditions if rendition[0] >= MIN_HEIGHT]
    if large_enough:
        return min(large_enough)[2]
    return min(renditions, key=lambda rendition: (-rendition[0], rendition[1]))[2]


def with_absolute_urls(playlist: str, url: str) -> str:
    """`playlist`, fetched from `url`, with every URL in it made absolute."""
    lines = []
    # Titles may contain U+2028 and others that `splitlines` takes for line ends.
    for line in _LINE_END.split(playlist):
        if line.startswith("#"):
            line = _URI_ATTRIBUTE.sub(lambda match: match["before"] + _join(url, match["uri"]) + match["after"], line)
        elif line.strip():
            line = _join(url, line.strip())
        lines.append(line)
    return "\n".join(lines).rstrip("\n") + "\n"


def _join(base: str, url: str) -> str:
    try:
        return urljoin(base, url)
    except ValueError:  # no valid URL: the client refuses it when it is asked for
        return url
