"""HTTP cameras as in the field: each sends JPEGs in a different way. Functions that answer one GET request.

`STREAMS` send one JPEG after the other until the reader goes or a few have been sent; `SNAPSHOTS` send one a request.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler

from PIL import Image

Answer = Callable[[BaseHTTPRequestHandler], None]
SIZE = (160, 96)
COUNT = 12
PAUSE = 0.02


def jpeg(number: int, *, thumbnail: bool = False) -> bytes:
    """An image of one color, by `number`; with a thumbnail in its EXIF data, as cameras write it."""
    color = (number * 20 % 256, 128, 255 - number * 20 % 256)
    extra = {"exif": b"Exif\0\0" + jpeg(number)} if thumbnail else {}
    out = io.BytesIO()
    Image.new("RGB", SIZE, color).save(out, "JPEG", **extra)
    return out.getvalue()


def picture(number: int, kind: str) -> bytes:
    """The image of `jpeg` in another format."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(jpeg(number))) as image:
        image.save(out, kind, lossless=True)
    return out.getvalue()


def _head(request: BaseHTTPRequestHandler, content_type: str, length: int | None = None) -> None:
    request.send_response(200)
    if content_type:
        request.send_header("Content-Type", content_type)
    if length is not None:
        request.send_header("Content-Length", str(length))
    request.end_headers()


def _stream(content_type: str, parts: Callable[[bytes], bytes], *, thumbnail: bool = False) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        _head(request, content_type)
        for number in range(COUNT):
            request.wfile.write(parts(jpeg(number, thumbnail=thumbnail)))
            time.sleep(PAUSE)

    return answer


def _in_pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 100):
        yield data[at : at + 100]


def _slowly(request: BaseHTTPRequestHandler) -> None:
    _head(request, "multipart/x-mixed-replace; boundary=b")
    for number in range(COUNT):
        for piece in _in_pieces(b"--b\r\nContent-Type: image/jpeg\r\n\r\n" + jpeg(number) + b"\r\n"):
            request.wfile.write(piece)
            request.wfile.flush()


_MIXED = "multipart/x-mixed-replace"
STREAMS: dict[str, Answer] = {
    "as it should be": _stream(
        f"{_MIXED}; boundary=b",
        lambda data: b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(data), data),
    ),
    "type with parameters": _stream(
        f"{_MIXED};boundary=b",
        lambda data: b"--b\r\nContent-Type: image/jpeg;size=%d\r\n\r\n%s\r\n" % (len(data), data),
    ),
    "image/jpg": _stream(f'{_MIXED};boundary="b"', lambda data: b"--b\r\ncontent-type: image/jpg\r\n\r\n" + data),
    "no first boundary": _stream(
        f"{_MIXED};boundary=123456789000000000000987654321",
        lambda data: (
            b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data)
            + b"\r\n--123456789000000000000987654321\r\n"
        ),
    ),
    "line feeds alone": _stream(
        f"{_MIXED};boundary=b", lambda data: b"--b\nContent-Type: image/jpeg\n\n" + data + b"\n"
    ),
    "boundary with dashes": _stream(
        f"{_MIXED};boundary=--b", lambda data: b"--b\r\nContent-Type: image/jpeg\r\n\r\n" + data + b"\r\n"
    ),
    "no part headers": _stream(f"{_MIXED};boundary=b", lambda data: b"--b\r\n\r\n" + data + b"\r\n"),
    "parts of another type": _stream(
        "application/octet-stream", lambda data: b"\r\n--b\r\nContent-Type: image/jpeg\r\n\r\n" + data
    ),
    "parts of no type": _stream("", lambda data: b"--b\r\nContent-Type: image/jpg\r\n\r\n" + data + b"\r\n"),
    "a wrong length": _stream(
        f"{_MIXED};boundary=b", lambda data: b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: 7\r\n\r\n" + data
    ),
    "no multipart": _stream("image/jpeg", lambda data: data),
    "no type": _stream("", lambda data: data),
    "a thumbnail inside": _stream(f"{_MIXED};boundary=b", lambda data: b"--b\r\n\r\n" + data, thumbnail=True),
    "in small pieces": _slowly,
}


class Snapshot:
    """One JPEG per request, a new image each time."""

    def __init__(self, *, length: bool = True, content_type: str = "image/jpeg", kind: str = "JPEG") -> None:
        self.requests = 0
        self._length = length
        self._content_type = content_type
        self._kind = kind

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        data = jpeg(self.requests) if self._kind == "JPEG" else picture(self.requests, self._kind)
        self.requests += 1
        _head(request, self._content_type, len(data) if self._length else None)
        request.wfile.write(data)
        request.close_connection = True


SNAPSHOTS: dict[str, Callable[[], Snapshot]] = {
    "with a length": Snapshot,
    "without a length": lambda: Snapshot(length=False),
    "of no type": lambda: Snapshot(content_type="application/octet-stream"),
}


class Login:
    """Passes only user `viewer` with password `hunter2` to `answer`."""

    def __init__(self, answer: Answer, kind: str) -> None:
        self._answer = answer
        self._kind = kind

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        sent = request.headers.get("Authorization", "")
        if self._is_right(request, sent):
            self._answer(request)
            return
        request.send_response(401)
        request.send_header("WWW-Authenticate", self._challenge())
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _challenge(self) -> str:
        if self._kind == "Basic":
            return 'Basic realm="camera"'
        return f'Digest realm="camera", nonce="n0nce", qop="auth", algorithm={self._kind}'

    def _is_right(self, request: BaseHTTPRequestHandler, sent: str) -> bool:
        if self._kind == "Basic":
            return sent == "Basic " + base64.b64encode(b"viewer:hunter2").decode()
        fields = dict(re.findall(r'(\w+)="?([^",]+)"?', sent))

        def digest(text: str) -> str:
            return hashlib.new("sha256" if self._kind == "SHA-256" else "md5", text.encode()).hexdigest()

        first, second = digest("viewer:camera:hunter2"), digest(f"GET:{request.path}")
        middle = f"n0nce:{fields.get('nc')}:{fields.get('cnonce')}:auth"
        return fields.get("uri") == request.path and fields.get("response") == digest(f"{first}:{middle}:{second}")
