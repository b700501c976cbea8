"""Sources of frames: one interface, and an implementation for each URL that `check_url` accepts."""

from __future__ import annotations

from streamcap.media.sources.base import Source, SourceEnded, SourceInfo, SourceLost, SourceRefused
from streamcap.media.sources.options import SourceOptions
from streamcap.media.sources.url import check_url, file_path, is_webp, scheme_of

__all__ = [
    "Source",
    "SourceEnded",
    "SourceInfo",
    "SourceLost",
    "SourceOptions",
    "SourceRefused",
    "check_url",
    "open_source",
]


def open_source(url: str, *, options: SourceOptions | None = None) -> Source:
    """The source of `url`, not opened yet: the reading thread calls `Source.open`.

    Raises InputError for an invalid URL.
    """
    options = options or SourceOptions()
    scheme = scheme_of(url)
    # Imported on first use: cameras need no Pillow.
    if scheme == "scenes":
        from streamcap.media.sources.scenes import ScenesSource

        return ScenesSource(url)
    if scheme == "whip":
        from streamcap.media.sources.push import PushSource

        return PushSource(url, read_timeout=options.read_timeout)
    if scheme in ("http", "https"):
        from streamcap.media.sources.http.source import HttpSource

        return HttpSource(url, options)
    if scheme in ("rtsp", "rtsps"):
        from streamcap.media.sources.rtsp.source import RtspSource

        return RtspSource(url, options)
    if scheme == "file" and is_webp(file_path(url)):
        from streamcap.media.sources.animation import AnimationSource

        return AnimationSource(url, options)
    from streamcap.media.sources.libav.source import LibavSource

    return LibavSource(url, options)
