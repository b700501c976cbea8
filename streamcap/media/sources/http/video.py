"""`HttpVideoSource`: HLS and video files over HTTP, decoded by libav and fetched by our own client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import av
from av.container import InputContainer

from streamcap.media.frame import Frame
from streamcap.media.sources.base import SourceInfo, SourceLost, SourceRefused
from streamcap.media.sources.http.client import ForbiddenUrlError
from streamcap.media.sources.http.files import NestedFiles
from streamcap.media.sources.libav.options import HTTP_OPTIONS
from streamcap.media.sources.libav.source import LibavSource
from streamcap.media.sources.options import SourceOptions

# Of its own, libav would open further connections for HLS, without `io_open`.
_NO_OWN_CONNECTIONS = {"http_persistent": "0", "http_multiple": "0"}


class HttpVideoSource(LibavSource):
    """A URL whose response is a playlist or a video container. libav opens no connection itself.

    Parameters:
        url: of the playlist or file; relative URLs in a playlist refer to it.
        finite: whether it is a file of a known size, to be played once.
    """

    def __init__(
        self,
        url: str,
        options: SourceOptions,
        files: NestedFiles,
        *,
        finite: bool,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(url, options, monotonic=monotonic, wall=wall)
        self._files = files
        self._has_size = finite

    def open(self) -> SourceInfo:
        try:
            info = super().open()
        except SourceRefused as refused:
            fault = self._files.fault
            self.close()
            if fault is None or isinstance(refused, ForbiddenUrlError):
                raise
            raise SourceRefused(f"{self.url}: {fault}", retry=True) from None
        self._files.max_silence = self._max_silence
        return info

    def frames(self) -> Iterator[Frame]:
        try:
            yield from super().frames()
        except SourceLost as lost:
            fault = self._files.fault
            if fault is None:
                raise
            raise SourceLost(f"{lost}; the last request failed: {fault}") from None

    def close(self) -> None:
        super().close()
        self._files.close()

    def _is_finite(self, container: InputContainer) -> bool:
        # A file of MPEG-TS has no duration where the server takes no byte ranges.
        return container.duration is not None or self._has_size

    def _open_container(self) -> InputContainer:
        parts = urlsplit(self._secret_url)
        # The client adds the login. With it in the name, libav would copy it into every URL.
        name = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        timeouts = self._options.open_timeout, self._options.read_timeout
        options = {**HTTP_OPTIONS, **_NO_OWN_CONNECTIONS, **self._limits}
        return av.open(name, "r", options=options, timeout=timeouts, io_open=self._files.open)
