"""`AccessUnits`: joins the parts of a camera's pictures, and knows the last part of a picture when it comes. Pure.

RTP marks the last packet of a picture, but libav does not tell: its parser knows that a picture is complete when the
next one begins, 33 ms later at 30 pictures a second, 100 ms at 10. Without its parser libav gives the payload of each
packet as it arrives.
"""

from __future__ import annotations

from dataclasses import dataclass

_START = b"\0\0\0\1"
"""libav puts it before each NAL unit, and data within a NAL unit never looks like it."""
_MAX_BYTES = 32 << 20
"""Of one picture. More of it is left out, so that a camera that never ends a picture does not fill the memory."""
_MIN_PROOFS = 30
_MIN_PROOFS_OF_KIND = 2
_RECOVERY_POINT = 6


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """All of one picture."""

    data: bytes
    timestamp: int | None
    keyframe: bool


class AccessUnits:
    """Joins parts with the same timestamp. A first slice begins a picture too: some cameras' timestamps stand still.

    The end of a picture is expected where it was in earlier pictures: after as many slices, the last of which ends
    with a packet that is not filled. This is observed for some pictures before it is relied upon, for keyframes and
    others separately. If more of a picture follows after its expected end, the rest of that picture and pictures up to
    the next keyframe are left out, and from then on a picture ends when the next one begins.

    Parameters:
        codec: "h264" or "hevc".
    """

    def __init__(self, codec: str) -> None:
        self._hevc = codec == "hevc"
        self._header = len(_START) + (2 if self._hevc else 1)
        self._data = bytearray()
        self._timestamp: int | None = None
        self._keyframe = False
        self._full = 0
        """Bytes in a packet that holds a part of a NAL unit, but not its last."""
        self._first = 0
        """Bytes of the first such packet of this NAL unit."""
        self._in_slice = False
        self._slices = 0
        """Slices of this picture that have ended."""
        self._expected = {True: 0, False: 0}
        self._at_end = False
        """Whether the picture should be complete."""
        self._given = False
        """Whether this picture has been returned."""
        self._proofs = {True: 0, False: 0}
        self._trusted = True
        self._broken = False
        """Whether pictures refer to one that was incomplete."""

    def feed(self, part: bytes, timestamp: int | None) -> list[AccessUnit]:
        """The pictures that `part`, the next one, completes or ends."""
        units = []
        if timestamp != self._timestamp or ((self._slices or self._in_slice) and self._is_first_slice(part)):
            units = self.flush()
            self._timestamp = timestamp
        elif self._at_end:
            self._note_wrong_end()
        if not self._given and len(self._data) < _MAX_BYTES:
            self._data += part
        self._note_part(part)
        self._at_end = not self._in_slice and self._slices > 0 and self._slices == self._expected[self._keyframe]
        if self._at_end and self._is_proven and not self._given:
            units += self._give()
        return units

    def flush(self) -> list[AccessUnit]:
        """The picture whose end has not been seen, if there is one: the next begins, or the stream has ended."""
        units = [] if self._given or not self._data else self._give()
        if self._at_end:
            self._proofs[self._keyframe] += 1
        if self._slices:
            self._expected[self._keyframe] = self._slices
        self._keyframe = self._in_slice = self._at_end = self._given = False
        self._slices = 0
        return units

    @property
    def _is_proven(self) -> bool:
        proofs = self._proofs
        return self._trusted and sum(proofs.values()) >= _MIN_PROOFS and proofs[self._keyframe] >= _MIN_PROOFS_OF_KIND

    def _give(self) -> list[AccessUnit]:
        self._given = True
        data = bytes(self._data)
        self._data.clear()
        if self._broken and not self._keyframe:
            return []
        self._broken = False
        return [AccessUnit(data, self._timestamp, self._keyframe)]

    def _note_wrong_end(self) -> None:
        self._proofs = {True: 0, False: 0}
        if self._given:
            self._trusted, self._broken = False, True

    def _is_first_slice(self, part: bytes) -> bool:
        """By the first bit: first_mb_in_slice 0 (H.264, 7.3.3), first_slice_segment_in_pic_flag (H.265, 7.3.6.1)."""
        if len(part) <= self._header or not part.startswith(_START):
            return False
        kind = part[len(_START)] >> 1 & 0x3F if self._hevc else part[len(_START)] & 0x1F
        is_slice = kind < 32 if self._hevc else kind in (1, 5)
        return is_slice and bool(part[self._header] & 0x80)

    def _note_part(self, part: bytes) -> None:
        if not part.startswith(_START):  # a NAL unit goes on
            self._full = max(self._full, self._first)
            if self._in_slice and len(part) < self._first:
                self._end_slice()
            return
        if self._in_slice:
            self._end_slice()
        at, last = 0, part.rfind(_START)
        while at <= last:  # a packet may hold several NAL units
            following = part.find(_START, at + len(_START))
            self._note_nal_unit(part[at : following if following > 0 else None])
            if at < last:
                self._end_slice()
            at = following if following > 0 else len(part)
        self._first = len(part) - last - self._header
        if self._first != self._full:
            self._end_slice()

    def _note_nal_unit(self, unit: bytes) -> None:
        if len(unit) <= len(_START):
            return
        header = unit[len(_START)]
        if self._hevc:
            kind = header >> 1 & 0x3F
            self._in_slice = kind < 32
            self._keyframe |= 16 <= kind <= 23
        else:
            kind = header & 0x1F
            self._in_slice = 1 <= kind <= 5
            self._keyframe |= kind == 5 or (kind == 6 and _RECOVERY_POINT in _sei_types(unit[len(_START) + 1 :]))

    def _end_slice(self) -> None:
        self._slices += self._in_slice
        self._in_slice = False


def _sei_types(data: bytes) -> list[int]:
    """The types of the messages in a SEI NAL unit, without its header."""
    types, at = [], 0
    while at + 2 < len(data):  # the last byte ends the NAL unit
        numbers = []
        for _ in range(2):  # type and size: 255 for each whole 255
            number = 0
            while at < len(data) and data[at] == 255:
                number, at = number + 255, at + 1
            numbers.append(number + (data[at] if at < len(data) else 0))
            at += 1
        types.append(numbers[0])
        at += numbers[1]
    return types
