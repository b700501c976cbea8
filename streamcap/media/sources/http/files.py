"""HTTP responses as files that libav reads: the video itself, and everything that an HLS playlist leads to."""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import logging
import os
import time
from collections.abc import Callable
from typing import Protocol

from streamcap.media.containers import mp4_boxes
from streamcap.media.sources.base import SourceLost, SourceRefused
from streamcap.media.sources.http.client import ForbiddenUrlError, HttpClient
from streamcap.media.sources.http.hls import PLAYLIST_START, with_absolute_urls
from streamcap.redact import redact

log = logging.getLogger(__name__)

MAX_PLAYLIST_BYTES = 4_000_000
_AVIO_FLAG_WRITE = 2
_AES_BLOCK = 16
_SKIP_BYTES = 65_536
# Sizes that cameras claim for a stream without end.
_ENDLESS = (2**31 - 1, 2**31, 2**32 - 1, 2**32)
_MAX_FILE_BYTES = 10**12
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
# libav follows a playlist that leads to nothing but playlists, or to missing segments, without end.
MAX_FRUITLESS_REQUESTS = 1000


class File(Protocol):
    """What libav reads: `io_open` of `av.open` returns one."""

    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class VideoFile:
    """A video file or stream over HTTP. A seek makes a new request.

    Parameters:
        response: of `client.get()`; `first` are the bytes read from it so far.
    """

    def __init__(self, client: HttpClient, response: http.client.HTTPResponse, first: bytes) -> None:
        self._client = client
        self._response: http.client.HTTPResponse | None = response
        self._first = first
        self._position = 0
        length = response.length
        self._size = None if length is None else length + len(first)
        accepts = (response.headers.get("Accept-Ranges") or "").strip().lower() == "bytes"
        self.finite = self._size is not None and self._size < _MAX_FILE_BYTES and self._size not in _ENDLESS
        """Whether it is a file, which has an end, not a live stream."""
        # The index of an MP4 may be at its end: without byte ranges it is fetched from the start again.
        self._seekable = self._size is not None and (accepts or (self.finite and first[4:8] in _MP4_BOXES))

        self.index_is_out_of_reach = not self._seekable and _index_comes_last(first)
        """Whether it is an MP4 that can only be read from its start, with its index behind the video."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; empty at the end. Raises OSError, SourceRefused."""
        if self._first:
            data, self._first = self._first[:size], self._first[size:]
        elif self._position == self._size:
            return b""
        else:
            data = self._fetch(size)
        self._position += len(data)
        return data

    def _fetch(self, size: int) -> bytes:
        try:
            if self._response is None:
                self._response = self._client.get(start=self._position)
                skip = self._position if self._response.status == 200 else 0
                while skip > 0 and (skipped := read_some(self._response, min(skip, _SKIP_BYTES))):
                    skip -= len(skipped)
            return read_some(self._response, size)
        except http.client.HTTPException:
            raise ConnectionResetError(errno.ECONNRESET, "the other side closed the connection") from None

    def seekable(self) -> bool:
        return self._seekable

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size or 0}[whence]
        position = max(0, base + offset)
        if position != self._position:
            self._position, self._first = position, b""
            self.close()
        return position

    def close(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                response.close()


def _index_comes_last(first: bytes) -> bool:
    boxes = set(mp4_boxes(io.BytesIO(first)))
    return b"ftyp" in boxes and b"mdat" in boxes and not boxes & {b"moov", b"moof"}


class NestedFiles:
    """Opens the URLs that libav finds in a playlist, each through `client`, which checks where it leads.

    A segment that cannot be fetched is empty, so that libav continues with the next; `fault` has the reason. A
    forbidden URL ends the source: `open` raises ForbiddenUrlError.

    Parameters:
        first: the video itself; it is what the first `open` returns.
        is_stopping: when true, everything is empty.
        max_silence: after this many seconds of requests that gave no video data, `open` raises SourceLost.
    """

    def __init__(
        self,
        client: HttpClient,
        first: File,
        is_stopping: Callable[[], bool],
        *,
        max_silence: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_silence = max_silence
        self.fault: str | None = None
        """Why the last segment or playlist could not be fetched; None if it could."""
        self._failed_url = self._playlist_url = ""
        self._client = client
        self._first: File | None = first
        self._is_stopping = is_stopping
        self._video = first
        self._monotonic = monotonic
        self._fruitless = 0
        self._fruitless_since = 0.0

    def open(self, url: str, flags: int, options: dict[str, str]) -> File:
        """The callback `io_open` of `av.open`."""
        if self._first is not None:
            first, self._first = self._first, None
            self._playlist_url = url
            return first
        if flags & _AVIO_FLAG_WRITE:
            raise ForbiddenUrlError("libav wants to write to a source")
        self._count_request()
        return self._nested(url, options)

    def _count_request(self) -> None:
        now = self._monotonic()
        if not self._fruitless:
            self._fruitless_since = now
        self._fruitless += 1
        if self._fruitless > MAX_FRUITLESS_REQUESTS or now - self._fruitless_since > self.max_silence:
            reason = self.fault or f"none of {self._fruitless - 1} requests gave any"
            raise SourceLost(f"{self._client.where}: its playlist leads to no video: {reason}")

    def close(self) -> None:
        """Close everything that is still open. Idempotent."""
        self._video.close()
        with contextlib.suppress(OSError, http.client.HTTPException):
            self._client.close()

    def _nested(self, url: str, options: dict[str, str]) -> File:
        if self._is_stopping():
            return io.BytesIO()
        encrypted = url.startswith(("crypto+", "crypto:"))
        url = url[len("crypto+") :] if encrypted else url
        start, end = int(options.get("offset", 0)), int(options["end_offset"]) if "end_offset" in options else None
        try:
            response = self._client.get(url, start=start, end=end, keep=True)
        except ForbiddenUrlError:
            raise
        except (SourceRefused, OSError, http.client.HTTPException) as error:
            self._note(url, error)
            return io.BytesIO()
        if url == self._failed_url or url != self._playlist_url:
            self.fault = None
        skip = start if response.status == 200 else 0
        file = _Part(self, response, url, skip=skip, length=None if end is None else end - start)
        if encrypted:
            return _Decrypted(file, bytes.fromhex(options["key"]), bytes.fromhex(options["iv"]))
        if response.url != url:
            return self._redirected(file, response.url)
        return file

    def _redirected(self, file: _Part, url: str) -> File:
        """A redirected playlist with absolute URLs: libav would resolve relative ones against the URL it asked for."""
        deadline = self._monotonic() + self.max_silence

        def check() -> None:
            if self._monotonic() > deadline:
                raise TimeoutError(f"its playlist was not complete within {self.max_silence:g} s")

        try:
            start = read_all(file.read, len(PLAYLIST_START), check)
            if not start.startswith(PLAYLIST_START):
                file.unread(start)
                return file
            text = start + read_all(file.read, MAX_PLAYLIST_BYTES, check)
        except TimeoutError as error:
            self._note(url, error)
            text = b""
        file.close()
        return io.BytesIO(with_absolute_urls(text.decode(errors="replace"), url).encode())

    def read(self, response: http.client.HTTPResponse, url: str, size: int) -> bytes:
        """Up to `size` bytes; empty at the end, and where the connection breaks."""
        if self._is_stopping():
            return b""
        try:
            data = read_some(response, size)
        except (OSError, http.client.HTTPException) as error:
            self._note(url, error)
            return b""
        if data and not data.startswith(PLAYLIST_START):
            self._fruitless = 0
        return data

    def release(self, response: http.client.HTTPResponse) -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            self._client.release(response)

    def _note(self, url: str, error: Exception) -> None:
        self.fault, self._failed_url = redact(str(error) or type(error).__name__), url
        log.debug("%s: %s", redact(url), self.fault)


class _Part:
    """A response, or `length` bytes of it after `skip`."""

    def __init__(
        self, files: NestedFiles, response: http.client.HTTPResponse, url: str, *, skip: int, length: int | None
    ) -> None:
        self._files = files
        self._response = response
        self._url = url
        self._skip = skip
        self._left = length
        self._unread = b""

    def read(self, size: int, /) -> bytes:
        if self._unread:
            data, self._unread = self._unread[:size], self._unread[size:]
            return data
        while self._skip > 0:
            skipped = self._files.read(self._response, self._url, min(self._skip, _SKIP_BYTES))
            if not skipped:
                return b""
            self._skip -= len(skipped)
        if self._left is not None:
            size = min(size, self._left)
        data = self._files.read(self._response, self._url, size) if size else b""
        if self._left is not None:
            self._left -= len(data)
        return data

    def unread(self, data: bytes) -> None:
        """`data` is what `read` returns next."""
        self._unread = data

    def close(self) -> None:
        self._files.release(self._response)


class _Decrypted:
    """A segment encrypted with AES-128 in CBC mode, with PKCS #7 padding (RFC 8216, section 4.3.2.4)."""

    def __init__(self, file: _Part, key: bytes, iv: bytes) -> None:
        # Imported on first use: few streams are encrypted.
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        self._file = file
        self._cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
        self._ahead = b""
        """Decrypted, but possibly the padding."""
        self._ready = b""
        self._at_end = False

    def read(self, size: int, /) -> bytes:
        while not self._ready and not self._at_end:
            data = self._file.read(size)
            self._at_end = not data
            plain = self._ahead + self._cipher.update(data)
            if self._at_end:
                padding = plain[-1] if plain else 0
                self._ready, self._ahead = plain[: len(plain) - min(padding, _AES_BLOCK)], b""
            else:
                self._ready, self._ahead = plain[:-_AES_BLOCK], plain[-_AES_BLOCK:]
        data, self._ready = self._ready[:size], self._ready[size:]
        return data

    def close(self) -> None:
        self._file.close()


def read_some(response: http.client.HTTPResponse, size: int) -> bytes:
    """Up to `size` bytes as soon as any are there; empty at the end of the response. Raises OSError, HTTPException."""
    data = response.read1(size)
    if not data and response.length:
        raise ConnectionResetError(errno.ECONNRESET, "the other side closed the connection in the middle")
    return data


def read_all(read: Callable[[int], bytes], max_bytes: int, check: Callable[[], None]) -> bytes:
    """What `read` gives until its end, or the first `max_bytes`. `check` is called after each piece; it may raise."""
    data = bytearray()
    while len(data) < max_bytes and (more := read(min(_SKIP_BYTES, max_bytes - len(data)))):
        data += more
        check()
    return bytes(data)
