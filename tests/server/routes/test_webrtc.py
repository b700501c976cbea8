"""WHIP and WHEP: the codes of RFC 9725, and video through a real peer connection (aiortc as the other side)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import av
import httpx
import numpy as np
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from streamcap.server.webrtc import whip as publishing
from streamcap.server.webrtc.rules import is_registered
from streamcap.server.webrtc.session import WebRtcSession, check_offer
from streamcap.server.webrtc.whip import ABANDONED_SECONDS
from testbed.timeouts import TIMEOUT_FACTOR
from tests.examples import examples
from tests.server.conftest import FakeStreams, Server, Start, until

pytestmark = pytest.mark.slow

SDP = {"Content-Type": "application/sdp"}
OFFER_LINES = [
    *("v=0", "o=-", "t=0 0", "m=video 9 UDP/TLS/RTP/SAVPF 96", "m=audio", "c=IN IP4 0.0.0.0", "c=x", "a=mid:"),
    *("a=rtpmap:96 VP8/90000", "a=rtpmap:x", "a=fmtp:96 x=y", "a=ssrc:1", "a=sendonly", "a=candidate:1"),
    *("a=ice-ufrag:x", "a=ice-pwd:y", "a=fingerprint:sha-256 00", "a=fingerprint:", "a=setup:actpass"),
]


class Color(MediaStreamTrack):
    """A plain image 30 times a second, whose size changes once."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._number = 0

    async def recv(self) -> av.VideoFrame:
        await asyncio.sleep(1 / 30)
        self._number += 1
        height, width = (240, 320) if self._number < 30 else (180, 240)
        frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 200, np.uint8), format="rgb24")
        frame.pts, frame.time_base = self._number, Fraction(1, 30)
        return frame


@contextlib.asynccontextmanager
async def connection() -> AsyncIterator[RTCPeerConnection]:
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        yield peer
    finally:
        await peer.close()


async def offer(peer: RTCPeerConnection) -> str:
    await peer.setLocalDescription(await peer.createOffer())
    return peer.localDescription.sdp


async def publish(server: Server, peer: RTCPeerConnection, name: str, **headers: str) -> httpx.Response:
    """Send `peer`'s offer and set the answer, if there is one."""
    answer = await server.http.post(f"/whip/{name}", content=await offer(peer), headers={**SDP, **headers})
    if answer.status_code == 201:
        await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
    return answer


async def test_whip_feeds_stream_until_delete(server: Server) -> None:
    async with connection() as peer:
        peer.addTrack(Color())
        created = await publish(server, peer, "tab")
        assert created.status_code == 201
        assert created.headers["content-type"] == "application/sdp"
        session = created.headers["location"]
        assert session.startswith("/whip/tab/")
        source = server.streams.get("tab").source
        await until(lambda: len(source._waiting) > 0)
        info = await asyncio.to_thread(source.open)
        assert (info.width, info.height) == (320, 240)
        # The frame size changes: both sizes reach the source.
        frames = source.frames()
        sizes = set()
        async with asyncio.timeout(TIMEOUT_FACTOR):
            while len(sizes) < 2:
                sizes.add((await asyncio.to_thread(next, frames)).size)
        assert sizes == {(320, 240), (240, 180)}

        async with connection() as second:
            second.addTrack(Color())
            assert (await publish(server, second, "tab")).status_code == 409

        assert (await server.http.delete("/whip/tab/guess")).status_code == 404
        assert (await server.http.delete(session)).status_code == 200
        assert (await server.http.delete(session)).status_code == 404
        await until(lambda: source._end is not None)
        assert "left" in str(source._end)


async def test_lost_whip_session_frees_name(start: Start) -> None:
    server = await start(publisher_timeout=0.5)
    async with connection() as peer:
        track = Color()
        peer.addTrack(track)
        assert (await publish(server, peer, "tab")).status_code == 201
        source = server.streams.get("tab").source
        await until(lambda: len(source._waiting) > 0)
        track.stop()
        peer.getSenders()[0].replaceTrack(None)
        await until(lambda: source._end is not None)
        assert "no frame for 0.5 s" in str(source._end)
        await until(lambda: len(server.app.state.whip_sessions) == 0)
    server.streams.get("tab").source = None
    async with connection() as peer:
        peer.addTrack(Color())
        assert (await publish(server, peer, "tab")).status_code == 201


async def test_abandoned_whip_stream_is_removed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    whip_sessions, now = server.app.state.whip_sessions, [1000.0]
    monkeypatch.setattr(whip_sessions, "_monotonic", lambda: now[0])
    await server.streams.add("studio", "whip:")

    async def visit(name: str, seconds: float) -> None:
        async with connection() as peer:
            peer.addTrack(Color())
            session = (await publish(server, peer, name)).headers["location"]
            now[0] += seconds
            await whip_sessions.remove_abandoned()
            assert (await server.http.delete(session)).status_code == 200

    await visit("tab", 2 * ABANDONED_SECONDS)
    await visit("studio", 1)
    now[0] += ABANDONED_SECONDS / 2
    await visit("tab", ABANDONED_SECONDS)
    now[0] += ABANDONED_SECONDS - 1
    await whip_sessions.remove_abandoned()
    assert server.streams.names() == ["door", "studio", "tab"]
    now[0] += 1
    await whip_sessions.remove_abandoned()
    assert server.streams.names() == ["door", "studio"]


async def test_failed_removal_is_logged_and_retried(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publishing, "SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(publishing, "ABANDONED_SECONDS", 0.0)
    server = await start()
    remove, failed = server.streams.remove, []

    async def fail_once(name: str) -> None:
        if not failed:
            failed.append(name)
            raise OSError("the disk is full")
        await remove(name)

    monkeypatch.setattr(server.streams, "remove", fail_once)
    async with connection() as peer:
        peer.addTrack(Color())
        session = (await publish(server, peer, "tab")).headers["location"]
        assert (await server.http.delete(session)).status_code == 200
    await until(lambda: "tab" not in server.streams.names())
    assert failed == ["tab"]
    assert "removing abandoned streams failed" in caplog.text and "the disk is full" in caplog.text


async def test_re_added_stream_is_not_removed() -> None:
    streams: Any = FakeStreams()
    first = await streams.add("door", "whip:")
    assert is_registered(streams, first)
    await streams.remove("door")
    assert not is_registered(streams, first)
    again = await streams.add("door", "whip:")
    assert is_registered(streams, again) and not is_registered(streams, first)


async def test_removed_stream_ends_whip_session(server: Server) -> None:
    async with connection() as peer:
        peer.addTrack(Color())
        assert (await publish(server, peer, "tab")).status_code == 201
        source = server.streams.get("tab").source
        await until(lambda: len(source._waiting) > 0)
        await server.streams.remove("tab")
        await until(lambda: len(server.app.state.whip_sessions) == 0)


async def test_removed_stream_ends_session_without_frames(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async with connection() as peer:
        peer.addTransceiver("video", "sendonly")
        with caplog.at_level("INFO"):
            answer = await server.http.post("/whip/tab", content=await offer(peer), headers=SDP)
            assert answer.status_code == 201
            await server.streams.remove("tab")
            await until(lambda: len(server.app.state.whip_sessions) == 0)
    assert "WHIP publisher of tab: the stream was removed" in caplog.text


@pytest.mark.parametrize(
    ("kind", "body", "content_type", "status"),
    [
        ("whip", "v=0", "text/plain", 415),
        ("whip", "v=0", None, 415),
        ("whip", "", "application/sdp", 400),
        ("whip", "this is no SDP", "application/sdp", 400),
        ("whip", "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n", "application/sdp", 400),
        ("whep", "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n", "application/sdp", 400),
    ],
)
async def test_invalid_offer_has_rfc_status(
    server: Server, kind: str, body: str, content_type: str | None, status: int
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    refused = await server.http.post(f"/{kind}/door", content=body, headers=headers)
    assert refused.status_code == status
    assert refused.json()["detail"]
    assert len(server.app.state.whip_sessions) == len(server.app.state.whep_sessions) == 0


async def test_offer_without_video_is_not_acceptable(server: Server) -> None:
    async with connection() as peer:
        peer.createDataChannel("x")
        assert (await publish(server, peer, "tab")).status_code == 406
    async with connection() as peer:
        peer.addTransceiver("video", direction="recvonly")
        assert (await publish(server, peer, "tab")).status_code == 406
    async with connection() as peer:
        peer.addTrack(Color())
        text = (await offer(peer)).replace("VP8/90000", "XX1/90000").replace("H264/90000", "XX2/90000")
        assert (await server.http.post("/whip/tab", content=text, headers=SDP)).status_code == 406
    assert "tab" not in server.streams.names()


async def test_used_or_invalid_whip_name_is_refused(server: Server) -> None:
    async with connection() as peer:
        peer.addTrack(Color())
        assert (await publish(server, peer, "door")).status_code == 409
    async with connection() as peer:
        peer.addTrack(Color())
        refused = await publish(server, peer, "..%2fdoor")
        assert refused.status_code in (400, 404, 405)
        assert (await publish(server, peer, "-x")).status_code == 400


async def test_options_and_method_not_allowed(server: Server) -> None:
    for method in ("GET", "HEAD", "PUT"):
        assert (await server.http.request(method, "/whip/door")).status_code == 405
        assert (await server.http.request(method, "/whip/door/session")).status_code == 405
    options_answer = await server.http.options("/whip/door")
    assert options_answer.headers["accept-post"] == "application/sdp"


async def test_trickle_ice_candidates(server: Server) -> None:
    trickle = {"Content-Type": "application/trickle-ice-sdpfrag"}
    async with connection() as peer:
        peer.addTrack(Color())
        created = await publish(server, peer, "tab")
        session, tag = created.headers["location"], created.headers["etag"]
        candidate = "a=mid:0\r\na=candidate:1 1 udp 2130706431 127.0.0.1 5000 typ host\r\n"

        async def patch(body: str, **headers: str) -> int:
            return (await server.http.patch(session, content=body, headers={**trickle, **headers})).status_code

        assert await patch(candidate) == 204
        assert await patch(candidate, **{"If-Match": tag}) == 204
        assert await patch(candidate, **{"If-Match": '"other"'}) == 412
        assert await patch("a=candidate:nonsense") == 400
        assert await patch("a=ice-ufrag:other\r\na=ice-pwd:x\r\n") == 422
        assert await patch(candidate, **{"Content-Type": "text/plain"}) == 415


async def test_whip_needs_publish_token_and_whep_view_token(start: Start) -> None:
    server = await start(publish_tokens=frozenset({"p"}), view_tokens=frozenset({"v"}))
    for kind, token, status in (("whip", "v", 403), ("whip", "x", 401), ("whep", "x", 401), ("whep", "v", 404)):
        headers = {**SDP, "Authorization": f"Bearer {token}"}
        assert (await server.http.post(f"/{kind}/tab", content="v=0", headers=headers)).status_code == status


async def test_whep_sends_video_and_costs_nothing_idle(server: Server) -> None:
    door = server.streams.get("door")
    image = av.VideoFrame.from_ndarray(np.full((720, 1280, 3), (200, 30, 30), np.uint8), format="rgb24")
    door.frame = SimpleNamespace(video_frame=image)
    whep_sessions = server.app.state.whep_sessions
    async with connection() as first, connection() as second:
        received = []
        for peer in (first, second):
            transceiver = peer.addTransceiver("video", direction="recvonly")
            answer = await server.http.post("/whep/door", content=await offer(peer), headers=SDP)
            assert answer.status_code == 201
            await peer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
            received.append((transceiver.receiver.track, answer.headers["location"]))
        for track, _ in received:
            async with asyncio.timeout(TIMEOUT_FACTOR):
                frame = await track.recv()
            assert (frame.width, frame.height) == (640, 360)
            red, green, blue = frame.to_ndarray(format="rgb24").mean(axis=(0, 1))
            assert red > 170
            assert max(green, blue) < 70
        preview = whep_sessions._previews["door"]
        assert preview.watched
        for _, session in received:
            assert (await server.http.delete(session)).status_code == 200
    assert not preview.watched
    await until(lambda: preview._task.done())
    assert len(whep_sessions) == 0


async def test_whep_session_limit(start: Start) -> None:
    server = await start(max_whep_sessions=0)
    await server.streams.add("door", "rtsp://door")
    refused = await server.http.post("/whep/door", content="v=0", headers=SDP)
    assert refused.status_code == 503


FRAGMENT_LINES = [
    *("a=mid:0", "a=mid:", "a=ice-ufrag:x", "a=ice-ufrag:other", "a=candidate:", "a=candidate:1 1 udp x 127.0.0.1 9"),
    *("a=candidate:1 1 udp 2130706431 127.0.0.1 5000 typ host", "a=candidate:1 1 tcp 1 ::1 9 typ host tcptype"),
    *("a=candidate:1 1 udp 1 127.0.0.1 5000 typ relay raddr", "a=candidate:² ١ udp 1 127.0.0.1 9 typ x"),
]


FRAGMENTS = st.one_of(
    st.text(max_size=60),
    st.text(max_size=30).map("a=candidate:".__add__),
    st.lists(st.sampled_from(FRAGMENT_LINES), max_size=4).map("\r\n".join),
)


async def test_offers_beyond_the_pace_are_503(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamcap.server.webrtc.offers.OFFER_INTERVAL", 1000.0)
    monkeypatch.setattr("streamcap.server.webrtc.offers.MAX_WAITING", 0)
    async with connection() as peer:
        peer.addTransceiver("video", "recvonly")
        sdp = await offer(peer)
        first, *others = [
            await server.http.post(f"/{kind}", content=sdp, headers=SDP)
            for kind in ("whep/door", "whep/door", "whip/tab", "whip/tab")
        ]
    assert first.status_code == 201
    assert {answer.status_code for answer in others} == {503}
    assert {answer.headers["retry-after"] for answer in others} == {"2"}
    assert len(server.app.state.whip_sessions) == 0
    assert (await server.http.delete(first.headers["location"])).status_code == 200


@settings(deadline=None, derandomize=True, max_examples=examples(10))
@given(st.lists(FRAGMENTS, min_size=5, max_size=10))
def test_any_ice_fragment_is_accepted_or_refused(fragments: list[str]) -> None:
    async def trickle() -> None:
        async with connection() as other:
            other.addTrack(Color())
            peer = WebRtcSession(())
            try:
                await peer.answer(await offer(other), directions=("sendonly", "sendrecv"))
                for fragment in fragments:
                    with contextlib.suppress(HTTPException):
                        await peer.add_candidates(fragment)
            finally:
                await peer.close()

    asyncio.run(trickle())


@settings(deadline=None, derandomize=True, max_examples=examples(100))
@given(
    st.one_of(
        st.text(),
        st.lists(st.sampled_from(OFFER_LINES)).map("\r\n".join),
    )
)
def test_any_offer_is_accepted_or_refused(text: str) -> None:
    with contextlib.suppress(HTTPException):
        check_offer(text, directions=("sendonly",))
