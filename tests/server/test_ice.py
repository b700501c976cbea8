"""`IceServer.parse`, and the configuration that aiortc gets."""

from __future__ import annotations

import pytest
from aiortc.rtcicetransport import connection_kwargs

from streamcap.errors import InputError
from streamcap.server.ice import IceServer
from streamcap.server.webrtc.session import WebRtcSession
from tests.server.conftest import Start
from tests.server.routes.test_webrtc import Color, connection, publish


async def test_ice_servers_reach_link_header_and_aiortc() -> None:
    stun = IceServer.parse("stun:stun.example.org:3479")
    assert (stun.url, stun.link) == ("stun:stun.example.org:3479", '<stun:stun.example.org:3479>; rel="ice-server"')
    turn = IceServer.parse("turn:door:p%40ss%22w@turn.example.org?transport=tcp")
    assert turn.url == "turn:turn.example.org?transport=tcp"
    assert turn.link.endswith('; username="door"; credential="p@ss\\"w"; credential-type="password"')
    assert "p@ss" not in repr(turn)
    peer = WebRtcSession((stun, turn))
    asked = connection_kwargs(peer.ice_servers)
    assert asked["stun_server"] == ("stun.example.org", 3479)
    assert (asked["turn_server"], asked["turn_transport"]) == (("turn.example.org", 3478), "tcp")
    assert (asked["turn_username"], asked["turn_password"]) == ("door", 'p@ss"w')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stun.example.org", "use stun:HOST:PORT"),
        ("stun:", "use stun"),
        ("stun:host:99999", "use stun"),
        ("stun:host:port", "use stun"),
        ("stun://host", "use stun"),
        ("stun:host?transport=udp", "has no password and no transport"),
        ("turn:host", "use turn:USER:PASSWORD@HOST"),
        ("turn:door:hunter2@", "use stun"),
        ("turn:door:hunter2@x@host", "use stun"),
        ("turn:door:hunter2\n@host", "use stun"),
        ("turn:door:hunter2%0A@host", "printable"),
        ("turns:door:hunter2@host?transport=udp", "TCP only"),
    ],
)
def test_invalid_ice_server_hides_password(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as refused:
        IceServer.parse(text)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_whip_response_lists_ice_servers(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "streamcap.server.webrtc.session.WebRtcSession", lambda servers: WebRtcSession(())
    )  # none is asked here
    servers = (IceServer.parse("stun:stun.example.org"), IceServer.parse("turns:a:b@turn.example.org"))
    server = await start(ice_servers=servers)
    async with connection() as peer:
        peer.addTrack(Color())
        links = (await publish(server, peer, "tab")).headers.get_list("link")
    assert links == [one.link for one in servers]
