"""Size and boundaries of JPEGs, without decoding."""

from __future__ import annotations

START = b"\xff\xd8\xff"
END = b"\xff\xd9"
# Start of frame, all kinds. 0xC4, 0xC8 and 0xCC are other markers.
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) in pixels from the header of a JPEG; None if it has none."""
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
    """Splits a stream of bytes into JPEGs. Between them may be multipart headers or nothing.

    A JPEG is returned as soon as its last byte is there; a thumbnail inside is part of it. Pure.

    Parameters:
        max_bytes: a longer JPEG is dropped and counted in `dropped`.
    """

    def __init__(self, max_bytes: int = 32_000_000) -> None:
        self.dropped = 0
        self._max_bytes = max_bytes
        self._data = bytearray()
        self._position = 0
        """Parse position in the JPEG at the start of the data; 0: no JPEG has started."""
        self._in_scan = False

    def feed(self, data: bytes) -> list[bytes]:
        """Add `data`. Returns the JPEGs it completes, in order."""
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
        if self._position:
            return True
        start = self._data.find(START)
        if start < 0:
            # A start marker may continue in the next data.
            del self._data[: -(len(START) - 1)]
            return False
        del self._data[:start]
        self._position, self._in_scan = 2, False
        return True

    def _find_end(self) -> int | None:
        """End of the JPEG at the start; 0 if it is not a JPEG; None if more bytes are needed."""
        data = self._data
        while True:
            if len(data) > self._max_bytes:
                self.dropped += 1
                return 0
            if self._in_scan:
                self._position = data.find(b"\xff", self._position)
                if self._position < 0:
                    self._position = len(data)
                    return None
            if self._position + 2 > len(data):
                return None
            marker = data[self._position + 1]
            if self._in_scan and (marker == 0 or 0xD0 <= marker <= 0xD7):
                self._position += 2
                continue
            if data[self._position] != 0xFF or marker in (0x00, 0xD8):
                self.dropped += 1
                return 0
            if marker == 0xFF:
                self._position += 1
                continue
            if marker == 0xD9:
                return self._position + 2
            if self._position + 4 > len(data):
                return None
            length = int.from_bytes(data[self._position + 2 : self._position + 4])
            if self._position + 2 + length > len(data):
                return None
            self._in_scan = marker == 0xDA
            self._position += 2 + length

    def _restart(self, end: int) -> None:
        # If it was not a JPEG, search on after its start marker.
        del self._data[: end or len(START)]
        self._position, self._in_scan = 0, False
