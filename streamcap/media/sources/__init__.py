"""Where frames come from: one contract, and a source for every URL that `check_url` takes."""

from __future__ import annotations

from streamcap.media.sources.base import Source, SourceEnded, SourceInfo, SourceLost, SourceRefused
from streamcap.media.sources.options import SourceOptions
from streamcap.media.sources.url import check_url, scheme_of

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
    """The source `url` names, not opened yet (`Source.open` does that, in the thread that reads it).

    Raises InputError for a URL that names none.
    """
    options = options or SourceOptions()
    scheme = scheme_of(url)
    # Each is imported where it is first needed: serving cameras needs no Pillow.
    if scheme == "scenes":
        from streamcap.media.sources.scenes import ScenesSource

        return ScenesSource(url)
    if scheme == "whip":
        from streamcap.media.sources.push import PushSource

        return PushSource(url, read_timeout=options.read_timeout)
    if scheme in ("http", "https"):
        from streamcap.media.sources.http.source import HttpSource

        return HttpSource(url, options)
    from streamcap.media.sources.libav import LibavSource

    return LibavSource(url, options)
