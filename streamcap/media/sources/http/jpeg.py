"""What the bytes of a JPEG say without decoding them."""

from __future__ import annotations

START = b"\xff\xd8\xff"
END = b"\xff\xd9"
# Start of frame: baseline to lossless, each in its kinds; 0xC4, 0xC8 and 0xCC are other things.
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels as the header of a JPEG gives them; None where it gives none."""
    if not data.startswith(START[:2]):
        return None
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        elif marker in _FRAME_MARKERS:
            height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
            return width, height
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


class JpegSplitter:
    """Finds the JPEGs in a stream of bytes, whatever stands between them: multipart headers, or nothing.

    A JPEG is complete with its last byte; a thumbnail inside it is part of it. Pure.

    Parameters:
        max_bytes: a JPEG that is longer is dropped, and counted in `dropped`.
    """

    def __init__(self, max_bytes: int = 32_000_000) -> None:
        self.dropped = 0
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._at = 0
        """How far the JPEG at the beginning of the data has been walked; 0: none has begun."""
        self._in_scan = False

    def feed(self, data: bytes) -> list[bytes]:
        """The JPEGs that `data` completes, in order."""
        self._data += data
        done: list[bytes] = []
        while self._find_start():
            end = self._find_end()
            if end is None:
                break
            if end:
                done.append(bytes(self._data[:end]))
            self._restart(end)
        return done

    def _find_start(self) -> bool:
        if self._at:
            return True
        start = self._data.find(START)
        if start < 0:
            # A start may lie across the border to what comes next.
            del self._data[: -(len(START) - 1)]
            return False
        del self._data[:start]
        self._at, self._in_scan = 2, False
        return True

    def _find_end(self) -> int | None:
        """Where the JPEG at the beginning ends; 0 where it is none; None where more bytes are needed."""
        data = self._data
        while True:
            if len(data) > self._max_bytes:
                self.dropped += 1
                return 0
            if self._in_scan:
                self._at = data.find(b"\xff", self._at)
                if self._at < 0:
                    self._at = len(data)
                    return None
            if self._at + 2 > len(data):
                return None
            marker = data[self._at + 1]
            if self._in_scan and (marker == 0 or 0xD0 <= marker <= 0xD7):
                self._at += 2
                continue
            if data[self._at] != 0xFF or marker in (0x00, 0xD8):
                self.dropped += 1
                return 0
            if marker == 0xFF:
                self._at += 1
                continue
            if marker == 0xD9:
                return self._at + 2
            if self._at + 4 > len(data):
                return None
            length = int.from_bytes(data[self._at + 2 : self._at + 4])
            if self._at + 2 + length > len(data):
                return None
            self._in_scan = marker == 0xDA
            self._at += 2 + length

    def _restart(self, end: int) -> None:
        # After what is none, the search goes on behind its first bytes.
        del self._data[: end or len(START)]
        self._at, self._in_scan = 0, False
