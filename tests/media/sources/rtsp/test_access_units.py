"""Where a picture ends, and when that is known; packets of libav's RTP muxer, and made ones."""

from __future__ import annotations

import random

import pytest

from streamcap.media.sources.rtsp import access_units
from streamcap.media.sources.rtsp.access_units import AccessUnit, AccessUnits

START = b"\0\0\0\1"
PACKET = 100
PROVEN = 10
KEY_EVERY = 5


def nal(kind: int, size: int, *, first: bool = True) -> bytes:
    """A NAL unit of H.264 of `size` bytes. first: the first slice of a picture."""
    rest = bytes(random.Random(size).randrange(1, 255) for _ in range(size - 2))
    return bytes([kind, 0x88 if first else 0x44]) + rest


def payloads(*units: bytes) -> list[bytes]:
    """RFC 6184: single NAL units, and FU-A for what does not fit."""
    out = []
    for unit in units:
        if len(unit) <= PACKET:
            out.append(unit)
            continue
        size = PACKET - 2
        for at in range(1, len(unit), size):
            flags = (0x80 if at == 1 else 0) | (0x40 if at + size >= len(unit) else 0)
            out.append(bytes([unit[0] & 0xE0 | 28, flags | unit[0] & 0x1F]) + unit[at : at + size])
    return out


def picture(number: int, *, slices: int = 2) -> list[bytes]:
    """The NAL units of a picture; one in KEY_EVERY is a keyframe."""
    key = number % KEY_EVERY == 0
    heads = [nal(7, 20), nal(8, 5)] if key else []
    return heads + [nal(5 if key else 1, 250 + 10 * number % 70 + each, first=not each) for each in range(slices)]


def joined(units: list[bytes]) -> bytes:
    return b"".join(START + unit for unit in units)


def fed(
    units: AccessUnits, given: list[bytes], timestamp: int, marked: set[int] | None = None
) -> list[list[AccessUnit]]:
    """What each payload gives. marked: the packets with a marker; the last one unless given."""
    marked = {len(given) - 1} if marked is None else marked
    return [units.feed(part, timestamp, marker=number in marked) for number, part in enumerate(given)]


def proven() -> AccessUnits:
    """After enough pictures that ended where they were marked."""
    units = AccessUnits("h264")
    for number in range(PROVEN):
        fed(units, payloads(*picture(number)), number)
    return units


def test_a_picture_ends_when_the_next_begins_at_first() -> None:
    units = AccessUnits("h264")
    assert not any(fed(units, payloads(*picture(0)), 0))
    first, *others = fed(units, payloads(*picture(1)), 1)
    assert first == [AccessUnit(joined(picture(0)), 0, keyframe=True)]
    assert not any(others)


@pytest.mark.parametrize("number", [PROVEN, PROVEN + 1], ids=["keyframe", "other"])
def test_a_picture_is_given_with_its_marked_packet(number: int) -> None:
    units = proven()
    for before in range(PROVEN, number):
        fed(units, payloads(*picture(before)), before)
    *early, last = fed(units, payloads(*picture(number)), number)
    assert last == [AccessUnit(joined(picture(number)), number, keyframe=number == PROVEN)]
    assert not any(early)
    assert fed(units, payloads(*picture(number + 1)), number + 1)[0] == []


def test_every_slice_marked_is_never_relied_upon() -> None:
    units = AccessUnits("h264")
    out = []
    for number in range(30):
        given = payloads(*picture(number))
        ends = {at for at, part in enumerate(given) if part[0] & 0x1F != 28 or part[1] & 0x40}
        first, *others = fed(units, given, number, ends)
        assert not any(others)
        out += first
    assert [unit.data for unit in out] == [joined(picture(number)) for number in range(29)]


def test_no_marker_costs_one_picture_of_delay() -> None:
    units = AccessUnits("h264")
    out = [
        unit for number in range(30) for each in fed(units, payloads(*picture(number)), number, set()) for unit in each
    ]
    assert [unit.data for unit in out + units.flush()] == [joined(picture(number)) for number in range(30)]


def test_picture_that_goes_on_costs_up_to_a_keyframe() -> None:
    units = proven()
    longer = payloads(*picture(PROVEN, slices=3))
    short = len(payloads(*picture(PROVEN)))
    assert sum(map(len, fed(units, longer, PROVEN, {short - 1}))) == 1
    after = [
        unit.timestamp
        for number in range(PROVEN + 1, PROVEN + 2 * KEY_EVERY + 1)
        for each in fed(units, payloads(*picture(number)), number)
        for unit in each
    ]
    # Nor are marks relied upon again: each waits for the next one.
    assert after == list(range(PROVEN + KEY_EVERY, PROVEN + 2 * KEY_EVERY))


def test_pictures_with_one_timestamp_are_told_apart() -> None:
    units = AccessUnits("h264")
    given = [picture(number) for number in range(PROVEN)]
    out = [unit for each in given for some in fed(units, payloads(*each), 7) for unit in some] + units.flush()
    assert b"".join(unit.data for unit in out) == b"".join(map(joined, given))
    assert len(out) == PROVEN


def test_earlier_parameter_sets_stay_with_the_keyframe() -> None:
    units = AccessUnits("h264")
    fed(units, [nal(7, 20)], 0)
    fed(units, [nal(8, 5)], 1)
    fed(units, payloads(nal(5, 250)), 2)
    assert units.flush() == [AccessUnit(joined([nal(7, 20), nal(8, 5), nal(5, 250)]), 2, keyframe=True)]


def test_the_rest_of_a_lost_beginning_is_left_out() -> None:
    units = AccessUnits("h264")
    whole = payloads(nal(5, 250), nal(5, 260, first=False))
    for at, part in enumerate(whole):
        if at != 3:  # the beginning of the second slice
            units.feed(part, 0, marker=False, lost=at == 4)
    assert [unit.data for unit in units.flush()] == [joined([nal(5, 250)])]


def test_a_picture_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_units, "_MAX_BYTES", 1000)
    units = AccessUnits("h264")
    begin, middle, *_ = payloads(nal(1, 500))
    units.feed(begin, 0, marker=False)
    for _ in range(1000):
        units.feed(middle, 0, marker=False)
    assert [len(unit.data) < 1200 for unit in units.flush()] == [True]


def test_one_packet_may_hold_several_nal_units() -> None:
    units = AccessUnits("h264")
    small = [nal(kind, 12) for kind in (7, 8, 5)]
    packet = bytes([24]) + b"".join(len(unit).to_bytes(2) + unit for unit in small)
    units.feed(packet, 0, marker=True)
    assert units.flush() == [AccessUnit(joined(small), 0, keyframe=True)]


def test_a_recovery_point_is_a_keyframe() -> None:
    user_data = bytes([5, 20]) + b"x" * 20
    for more, keyframe in ((bytes([6, 1, 0x84, 0x80]), True), (b"\x80", False)):
        units = AccessUnits("h264")
        fed(units, [bytes([6]) + user_data + more, nal(1, 30)], 0)
        assert [unit.keyframe for unit in units.flush()] == [keyframe]


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_any_payloads_are_joined_without_a_fault(codec: str) -> None:
    chance = random.Random(2)
    units, given, got = AccessUnits(codec), 0, 0
    for number in range(3000):
        part = bytes(
            chance.choice((0, 1, 2, 5, 6, 24, 28, 40, 60, 96, 98, 128, 255)) for _ in range(chance.randrange(12))
        )
        given += len(part)
        out = units.feed(part, number // 3, marker=chance.random() < 0.3, lost=chance.random() < 0.1)
        got += sum(len(unit.data) for unit in out)
    # Each byte of a NAL unit with its start code, and no payload twice.
    assert got + sum(len(unit.data) for unit in units.flush()) <= 5 * given
