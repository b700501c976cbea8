"""`AccessUnits`: joins the payloads of RTP packets to pictures of H.264 (RFC 6184) and H.265 (RFC 7798). Pure.

libav's parser returns a picture when the next one begins: 33 ms late at 30 pictures a second. RTP marks the last packet
of a picture, which libav does not tell.
"""

from __future__ import annotations

from dataclasses import dataclass

_START = b"\0\0\0\1"
_MAX_BYTES = 32 << 20
"""Of one picture. More of it is left out, so that a camera that never ends a picture does not fill the memory."""
_MIN_PROOFS = 3
_RECOVERY_POINT = 6
# Payload structures.
_H264_AGGREGATION, _H264_FRAGMENT = 24, 28
_HEVC_AGGREGATION, _HEVC_FRAGMENT = 48, 49


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """All of one picture, with start codes."""

    data: bytes
    timestamp: int
    keyframe: bool


class AccessUnits:
    """Joins what has the same timestamp. A first slice begins a picture too: some cameras' timestamps stand still.

    A picture ends with the packet that has the marker bit, once some pictures have shown that the camera sets it so.
    If more of a picture follows after that, the rest of that picture and pictures up to the next keyframe are left out,
    and from then on a picture ends when the next one begins, as it does where no packet is marked.

    Parameters:
        codec: "h264" or "hevc".
    """

    def __init__(self, codec: str) -> None:
        self._hevc = codec == "hevc"
        self._header = 2 if self._hevc else 1
        """Bytes of a NAL unit's header."""
        self._data = bytearray()
        self._timestamp = 0
        self._keyframe = False
        self._has_slice = False
        self._in_fragments = False
        """Whether the last payload was a part of a NAL unit, but not its end."""
        self._marked = False
        """Whether this picture should be complete."""
        self._ended_at: int | None = None
        """The timestamp of the last picture, if it ended with a marked packet."""
        self._proofs = 0
        self._trusted = True
        self._broken = False
        """Whether pictures refer to one that was incomplete."""
        self._is_rest = False
        """Whether this is what followed after the end of a picture."""

    def feed(self, payload: bytes, timestamp: int, *, marker: bool, lost: bool = False) -> list[AccessUnit]:
        """The pictures that `payload`, the next one, completes or ends. lost: whether packets before it are missing."""
        units: list[AccessUnit] = []
        if timestamp != self._timestamp:
            units = self.flush()
            self._timestamp, self._ended_at = timestamp, None
        if lost:
            self._in_fragments = False
        elif self._in_fragments and not marker and self._is_middle(payload):
            # Most packets, and so the shortest way.
            if len(self._data) < _MAX_BYTES:
                self._data += payload[self._header + 1 :]
            return units
        for unit, begins in self._nal_units(payload):
            if begins:
                units += self._begin(unit)
            else:
                self._go_on()
            if len(self._data) < _MAX_BYTES:
                self._data += unit
        if marker and self._has_slice and not self._in_fragments:
            self._marked = True
            if self._trusted and self._proofs >= _MIN_PROOFS:
                units += self._give()
                self._ended_at = timestamp
        return units

    def flush(self) -> list[AccessUnit]:
        """The picture that has not been returned, if there is one: the next begins, or the stream has ended.

        What comes before the first slice of a picture stays with it, whatever its timestamp.
        """
        self._proofs += self._marked
        return self._give() if self._has_slice else []

    def _give(self) -> list[AccessUnit]:
        unit = AccessUnit(bytes(self._data), self._timestamp, self._keyframe)
        self._data.clear()
        rest = self._is_rest
        self._keyframe = self._has_slice = self._marked = self._is_rest = False
        if rest or (self._broken and not unit.keyframe):
            return []
        self._broken = False
        return [unit]

    def _begin(self, unit: bytes) -> list[AccessUnit]:
        """Note the next NAL unit or its first part. Returns the picture before it, if that has ended."""
        head = unit[len(_START)]
        kind = head >> 1 & 0x3F if self._hevc else head & 0x1F
        is_slice = kind < 32 if self._hevc else 1 <= kind <= 5
        if not is_slice:
            if not self._hevc and kind == 6 and _RECOVERY_POINT in _sei_types(unit[len(_START) + 1 :]):
                self._keyframe = True
            return []
        units = []
        # first_mb_in_slice 0 (H.264, 7.3.3), first_slice_segment_in_pic_flag (H.265, 7.3.6.1)
        at = len(_START) + self._header
        if len(unit) > at and unit[at] & 0x80:
            units = self.flush()
        else:
            self._go_on()
        self._has_slice = True
        self._keyframe |= 16 <= kind <= 23 if self._hevc else kind == 5
        return units

    def _go_on(self) -> None:
        """More of a picture came. If it had been marked as complete, marks are not relied upon again."""
        if self._marked:
            self._marked, self._trusted = False, False
        elif not self._has_slice and self._ended_at == self._timestamp:
            self._trusted, self._broken, self._is_rest = False, True, True

    def _nal_units(self, payload: bytes) -> list[tuple[bytes, bool]]:
        """The NAL units of `payload`, with start codes, or a part of one; each with whether it begins there."""
        header = self._header
        if len(payload) <= header:
            return []
        kind = payload[0] >> 1 & 0x3F if self._hevc else payload[0] & 0x1F
        if kind == (_HEVC_FRAGMENT if self._hevc else _H264_FRAGMENT):
            return self._fragment(payload)
        self._in_fragments = False
        if kind == (_HEVC_AGGREGATION if self._hevc else _H264_AGGREGATION):
            units, at = [], header
            while at + 2 < len(payload):
                end = at + 2 + int.from_bytes(payload[at : at + 2])
                if end > at + 2:
                    units.append((_START + payload[at + 2 : end], True))
                at = end
            return units
        return [(_START + payload, True)]

    def _is_middle(self, payload: bytes) -> bool:
        """Whether it is a part of a NAL unit, neither its beginning nor its end, of a picture that has not ended."""
        if len(payload) <= self._header or not self._has_slice or self._marked:
            return False
        kind = payload[0] >> 1 & 0x3F == _HEVC_FRAGMENT if self._hevc else payload[0] & 0x1F == _H264_FRAGMENT
        return kind and not payload[self._header] & 0xC0

    def _fragment(self, payload: bytes) -> list[tuple[bytes, bool]]:
        header = self._header
        about = payload[header]
        began, self._in_fragments = self._in_fragments, not about & 0x40
        if not about & 0x80:
            if not began:  # its beginning was lost
                self._in_fragments = False
                return []
            return [(payload[header + 1 :], False)]
        if self._hevc:
            head = bytes((payload[0] & 0x81 | (about & 0x3F) << 1, payload[1]))
        else:
            head = bytes((payload[0] & 0xE0 | about & 0x1F,))
        return [(_START + head + payload[header + 1 :], True)]


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
