"""RTP and RTCP over TCP: what libav's muxer sends is what its encoder gave, and what RFC 3550 allows besides."""

from __future__ import annotations

import struct

import pytest

from streamcap.media.sources.rtsp.access_units import AccessUnit
from streamcap.media.sources.rtsp.rtp import RtpVideo, payload_types
from testbed.rtsp.rtp_packets import RATE, Pictures, interleaved, is_control, nal_units, pictures

STEP = 90_000 // RATE
SINCE_1900 = 2_208_988_800


@pytest.fixture(scope="module")
def sent() -> Pictures:
    return pictures("h264")


def video(sent: Pictures, codec: str = "h264", channel: int = 0) -> RtpVideo:
    return RtpVideo(codec, channel, frozenset({sent.payload_type}))


def received(video: RtpVideo, sent: Pictures) -> list[AccessUnit]:
    return [unit for packets in sent.packets for unit in video.feed(interleaved(packets))] + video.flush()


def without_control(sent: Pictures) -> list[list[bytes]]:
    return [[packet for packet in packets if not is_control(packet)] for packets in sent.packets]


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_pictures_are_those_of_the_encoder(codec: str) -> None:
    sent = pictures(codec)
    got = received(video(sent, codec), sent)
    assert [list(nal_units(unit.data)) for unit in got] == [list(nal_units(data)) for data in sent.encoded]
    assert [unit.keyframe for unit in got] == sent.keyframes
    assert [unit.timestamp for unit in got] == [number * STEP for number in range(len(got))]


def test_a_picture_comes_with_its_last_packet(sent: Pictures) -> None:
    receiver = video(sent)
    counts = [len(receiver.feed(interleaved(packets))) for packets in sent.packets]
    assert counts[:4] == [0, 1, 1, 2] and counts[4:] == [1] * (len(counts) - 4)


def test_what_rtp_allows_around_a_payload(sent: Pictures) -> None:
    def dressed(packet: bytes, number: int) -> bytes:
        """Two contributing sources, an extension of one word, four bytes of padding; all or none."""
        if number % 2:
            return packet
        head = bytes([packet[0] | 0x32]) + packet[1:12] + bytes(8) + b"\xbe\xde\0\1" + bytes(4)
        return head + packet[12:] + b"\0\0\0\4"

    receiver = video(sent)
    got: list[AccessUnit] = []
    for packets in without_control(sent):
        for number, packet in enumerate(packets):
            other_kind = packet[:1] + bytes([packet[1] & 0x80 | 97]) + packet[2:]
            got += receiver.feed(
                interleaved([other_kind]) + interleaved([packet], 2) + interleaved([dressed(packet, number)])
            )
    got += receiver.flush()
    assert [list(nal_units(unit.data)) for unit in got] == [list(nal_units(data)) for data in sent.encoded]


def test_timestamps_go_on_where_those_of_rtp_begin_again(sent: Pictures) -> None:
    receiver = video(sent)
    got: list[AccessUnit] = []
    for number, packets in enumerate(without_control(sent)):
        stamp = struct.pack(">I", (2**32 - 3 * STEP + number * STEP) % 2**32)
        got += receiver.feed(interleaved(packet[:4] + stamp + packet[8:] for packet in packets))
    assert [unit.timestamp for unit in got] == [number * STEP for number in range(len(got))]


def test_sender_report_gives_the_time_of_timestamp_zero(sent: Pictures) -> None:
    receiver = video(sent)
    first = without_control(sent)[0]
    (stamp,) = struct.unpack(">I", first[0][4:8])
    receiver.feed(interleaved(first))
    assert receiver.wall_time_of_zero() is None
    wall = 1_763_682_361.25
    report = struct.pack(">BBHIIIIII", 0x80, 200, 6, 7, int(wall) + SINCE_1900, 2**30, (stamp + 9000) % 2**32, 0, 0)
    description = struct.pack(">BBHI", 0x81, 202, 1, 7)
    receiver.feed(interleaved([report + description]))
    assert receiver.wall_time_of_zero() == pytest.approx(wall - 0.1)
    assert not receiver.ended
    receiver.feed(interleaved([struct.pack(">BBHI", 0x81, 203, 1, 7)]))
    assert receiver.ended


def test_pictures_come_again_after_broken_packets(sent: Pictures) -> None:
    receiver = video(sent)
    for packets in sent.packets:
        for packet in packets:
            sizes = (0, 1, 11, 12, 13, 14, len(packet) // 2)
            receiver.feed(b"".join(struct.pack("!cBH", b"$", 0, size) + packet[:size] for size in sizes))
    got = received(receiver, sent)
    # From the second keyframe on: the first pictures may still miss their beginning.
    intact = [list(nal_units(data)) for data in sent.encoded]
    assert [list(nal_units(unit.data)) for unit in got][-10:] == intact[-10:]


@pytest.mark.parametrize(
    ("lines", "kinds"),
    [
        ("a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1", {96}),
        ("a=rtpmap:0 PCMU/8000\r\na=rtpmap:98 h265/90000\r\na=rtpmap:99 rtx/90000", {98}),
        ("a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=2", set()),
        ("a=rtpmap:96 H265/90000\r\na=fmtp:96 sprop-max-don-diff=2", set()),
        ("a=rtpmap:26 JPEG/90000", set()),
    ],
)
def test_payload_types_of_a_description(lines: str, kinds: set[int]) -> None:
    assert payload_types(f"v=0\r\nm=video 0 RTP/AVP 96\r\n{lines}\r\n") == kinds
