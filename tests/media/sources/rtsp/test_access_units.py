"""The parts of pictures as libav gives them without its parser: where a picture ends, and when that is known."""

from __future__ import annotations

import random

import pytest

from streamcap.media.sources.rtsp import access_units
from streamcap.media.sources.rtsp.access_units import AccessUnit, AccessUnits

START = b"\0\0\0\1"
PACKET = 100
PROVEN = 40
KEY_EVERY = 5


def nal(kind: int, size: int, *, first: bool = True) -> bytes:
    """A NAL unit of H.264 of `size` bytes. first: the first slice of a picture."""
    rest = bytes(random.Random(size).randrange(1, 255) for _ in range(size - 2))
    return bytes([kind, 0x88 if first else 0x44]) + rest


def parts(*units: bytes, packet: int = PACKET) -> list[bytes]:
    """As a packetizer splits NAL units and libav gives the payloads: RFC 6184, FU-A for what does not fit."""
    out = []
    for unit in units:
        if len(unit) <= packet:
            out.append(START + unit)
            continue
        size = packet - 2
        out.append(START + unit[: 1 + size])
        out += [unit[at : at + size] for at in range(1 + size, len(unit), size)]
    return out


def picture(number: int, *, slices: int = 2, size: int = 250) -> list[bytes]:
    """The parts of a picture; one in KEY_EVERY is a keyframe."""
    key = number % KEY_EVERY == 0
    heads = [nal(7, 20), nal(8, 5)] if key else []
    return parts(
        *heads, *(nal(5 if key else 1, size + 10 * number % 70 + each, first=not each) for each in range(slices))
    )


def fed(units: AccessUnits, given: list[bytes], timestamp: int) -> list[list[AccessUnit]]:
    """What each part gives."""
    return [units.feed(part, timestamp) for part in given]


def proven() -> AccessUnits:
    """After enough pictures that ended where they were expected to."""
    units = AccessUnits("h264")
    for number in range(PROVEN):
        fed(units, picture(number), number)
    return units


def test_all_parts_of_a_picture_are_joined() -> None:
    units = AccessUnits("h264")
    out = [unit for number in range(3) for each in fed(units, picture(number), number) for unit in each] + units.flush()
    assert [unit.data for unit in out] == [b"".join(picture(number)) for number in range(3)]
    assert [unit.timestamp for unit in out] == [0, 1, 2]
    assert [unit.keyframe for unit in out] == [True, False, False]


def test_a_picture_ends_when_the_next_begins_at_first() -> None:
    units = AccessUnits("h264")
    assert not any(fed(units, picture(0), 0))
    first, *others = fed(units, picture(1), 1)
    assert [unit.timestamp for unit in first] == [0]
    assert not any(others)


@pytest.mark.parametrize("number", [PROVEN, PROVEN + 1], ids=["keyframe", "other"])
def test_a_picture_is_given_with_its_last_part(number: int) -> None:
    units = proven()
    for before in range(PROVEN, number):
        fed(units, picture(before), before)
    *early, last = fed(units, picture(number), number)
    assert [unit.data for unit in last] == [b"".join(picture(number))]
    assert not any(early)
    assert fed(units, picture(number + 1), number + 1)[0] == []


def test_a_last_packet_that_is_full_waits_for_the_next() -> None:
    units = proven()
    number = PROVEN + 1
    fed(units, picture(PROVEN), PROVEN)
    whole = parts(nal(1, 250), nal(1, 1 + 3 * (PACKET - 2), first=False))
    assert not any(fed(units, whole, number))
    assert [unit.data for unit in fed(units, picture(number + 1), number + 1)[0]] == [b"".join(whole)]


def test_fewer_slices_than_before_wait_for_the_next() -> None:
    units = proven()
    fed(units, picture(PROVEN), PROVEN)
    assert not any(fed(units, picture(PROVEN + 1, slices=1), PROVEN + 1))


def test_a_picture_that_goes_on_costs_those_up_to_a_keyframe() -> None:
    units = proven()
    fed(units, picture(PROVEN), PROVEN)
    longer = fed(units, picture(PROVEN + 1, slices=3), PROVEN + 1)
    assert sum(map(len, longer)) == 1
    after = [
        unit.timestamp
        for number in range(PROVEN + 2, PROVEN + 2 * KEY_EVERY + 1)
        for each in fed(units, picture(number, slices=3), number)
        for unit in each
    ]
    assert after == list(range(PROVEN + KEY_EVERY, PROVEN + 2 * KEY_EVERY))
    # It is not relied upon again.
    _first, *others = fed(units, picture(PROVEN + 2 * KEY_EVERY + 1, slices=3), PROVEN + 2 * KEY_EVERY + 1)
    assert not any(others)


def test_slices_that_vary_are_never_relied_upon() -> None:
    units = AccessUnits("h264")
    chance = random.Random(1)
    for number in range(300):
        first, *others = fed(units, picture(number, slices=chance.randrange(1, 6)), number)
        assert not any(others)
        assert [unit.timestamp for unit in first] == ([number - 1] if number else [])


def test_pictures_with_one_timestamp_are_told_apart() -> None:
    units = AccessUnits("h264")
    given = [picture(number) for number in (0, 1, 2)]
    out = [unit for each in given for some in fed(units, each, 7) for unit in some] + units.flush()
    # Parameter sets before a picture with the timestamp of the last one stay with that one.
    assert [unit.data for unit in out] == [b"".join(each) for each in given]
    assert [unit.timestamp for unit in out] == [7, 7, 7]


def test_a_picture_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_units, "_MAX_BYTES", 1000)
    units = AccessUnits("h264")
    units.feed(START + nal(1, 90), 0)
    for _ in range(1000):
        units.feed(b"x" * 90, 0)
    assert [len(unit.data) < 1100 for unit in units.flush()] == [True]


def test_one_packet_may_hold_several_nal_units() -> None:
    units = AccessUnits("h264")
    small = b"".join(START + nal(kind, 12) for kind in (7, 8, 5))
    for number in range(PROVEN):
        fed(units, [small], number)
    assert [unit.data for unit in units.feed(small, PROVEN)] == [small]


def test_a_recovery_point_is_a_keyframe() -> None:
    units = AccessUnits("h264")
    user_data = bytes([5, 20]) + b"x" * 20
    given = [START + bytes([6]) + user_data + bytes([6, 1, 0x84, 0x80]), START + nal(1, 30)]
    fed(units, given, 0)
    fed(units, [START + bytes([6]) + user_data + b"\x80", START + nal(1, 30)], 1)
    assert units.feed(START + nal(1, 30), 2) == [
        AccessUnit(START + bytes([6]) + user_data + b"\x80" + START + nal(1, 30), 1, keyframe=False)
    ]
    units = AccessUnits("h264")
    fed(units, given, 0)
    assert [unit.keyframe for unit in units.flush()] == [True]


def test_hevc_is_understood() -> None:
    units = AccessUnits("hevc")

    def split(number: int) -> list[bytes]:
        unit = bytes([(19 if number % KEY_EVERY == 0 else 1) << 1, 1]) + b"x" * 250
        size = PACKET - 3
        rest = [unit[at : at + size] for at in range(2 + size, len(unit), size)]
        return [START + unit[: 2 + size], *rest]

    for number in range(PROVEN):
        fed(units, split(number), number)
    last = fed(units, split(PROVEN), PROVEN)[-1]
    assert [unit.keyframe for unit in last] == [True]
    assert fed(units, split(PROVEN + 1), PROVEN + 1)[-1][0].keyframe is False


def test_any_bytes_are_joined_without_a_fault() -> None:
    chance = random.Random(2)
    units, given, got = AccessUnits("h264"), b"", b""
    for number in range(3000):
        part = bytes(chance.choice((0, 0, 0, 1, 6, 5, 255)) for _ in range(chance.randrange(0, 12)))
        given += part
        got += b"".join(unit.data for unit in units.feed(part, number // 3))
    got += b"".join(unit.data for unit in units.flush())
    assert len(got) <= len(given)
