"""RTSP messages (RFC 2326) and the interleaved binary data between them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 1_000_000
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"^content-length[ \t]*:[ \t]*(\d{1,9})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


class MessageError(ValueError):
    """What came is not RTSP."""


@dataclass(slots=True)
class Message:
    """A request (`first` is `METHOD URL RTSP/1.0`) or a response (`RTSP/1.0 STATUS REASON`)."""

    first: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> Message:
        head, _, body = data.partition(_END)
        first, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(first, [(name.strip(), value.strip()) for name, _, value in pairs], body)

    def encode(self) -> bytes:
        lines = [self.first, *(f"{name}: {value}" for name, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + self.body

    @property
    def status(self) -> int | None:
        """The status of a response; None for a request."""
        version, _, rest = self.first.partition(" ")
        return int(rest[:3]) if version.startswith("RTSP/") and rest[:3].isdecimal() else None

    def all(self, name: str) -> list[str]:
        """The values of the header `name`."""
        return [value for one, value in self.headers if one.lower() == name.lower()]

    def replace(self, name: str, value: str | None) -> None:
        """Set the header `name`; None removes it."""
        self.headers = [(one, old) for one, old in self.headers if one.lower() != name.lower()]
        if value is not None:
            self.headers.append((name, value))


class RtspSplitter:
    """Splits a TCP stream into encoded messages and runs of interleaved frames, which begin with `$`."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add `data`. Returns what it completes, in order. Raises MessageError."""
        self._data += data
        out: list[bytes] = []
        while (size := self._frames()) or (size := self._message()):
            out.append(bytes(self._data[:size]))
            del self._data[:size]
        return out

    def _frames(self) -> int:
        """The size of the complete interleaved frames at the start."""
        data, at = self._data, 0
        while at + 4 <= len(data) and data[at] == 0x24:
            end = at + 4 + int.from_bytes(data[at + 2 : at + 4])
            if end > len(data):
                break
            at = end
        return at

    def _message(self) -> int:
        """The size of the message at the start; 0 if it is incomplete or not a message."""
        data = self._data
        if not data or data[0] == 0x24:
            return 0
        end = data.find(_END, 0, MAX_HEAD_BYTES)
        if end < 0:
            if len(data) >= MAX_HEAD_BYTES:
                raise MessageError("a header without an end")
            return 0
        length = _LENGTH.search(data, 0, end + 2)
        body = int(length[1]) if length else 0
        if body > MAX_BODY_BYTES:
            raise MessageError("a body that is too long")
        size = end + len(_END) + body
        return size if size <= len(data) else 0
