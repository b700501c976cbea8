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
