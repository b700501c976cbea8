"""`WebRtcSession`: one WebRTC connection answered over HTTP. Imported by `loading.py`, with aiortc."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc import sdp as session_description
from starlette.exceptions import HTTPException

from streamcap.server.ice import IceServer

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0
# Real offers have one or two media sections; each needs sockets.
MAX_MEDIA_SECTIONS = 8


def check_offer(text: str, *, directions: Sequence[str]) -> session_description.SessionDescription:
    """Parse the offer `text`; it needs a video section with one of `directions`.

    Raises HTTPException: 400 if it is not an SDP offer, 406 if none of its media can be used.
    """
    try:
        if not text.startswith("v=0"):
            raise ValueError("it does not begin with v=0")
        offer = session_description.SessionDescription.parse(text)
        if not offer.media:
            raise ValueError("it has no media section")
        for media in offer.media:
            ice, dtls = media.ice, media.dtls
            if ice is None or not ice.usernameFragment or not ice.password or dtls is None or not dtls.fingerprints:
                raise ValueError("a media section lacks its ICE or DTLS parameters")
    except Exception as error:
        raise HTTPException(400, f"not an SDP offer: {str(error)[:120] or 'it cannot be parsed'}") from error
    if len(offer.media) > MAX_MEDIA_SECTIONS:
        raise HTTPException(406, f"{len(offer.media)} media sections are offered, more than {MAX_MEDIA_SECTIONS}")
    videos = [media for media in offer.media if media.kind == "video" and media.port]
    if not any((media.direction or "sendrecv") in directions for media in videos):
        raise HTTPException(406, f"no video section that is {' or '.join(directions)} is offered")
    return offer


class WebRtcSession:
    """One peer connection. Keep `id` secret: whoever knows it can end the session."""

    def __init__(self, ice_servers: Sequence[IceServer]) -> None:
        self.id = secrets.token_urlsafe(16)
        self.ice_servers = [RTCIceServer(one.url, one.username, one.credential) for one in ice_servers]
        # An empty list, not None: None would mean a public STUN server.
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=self.ice_servers))
        self.closed = asyncio.Event()
        """Set when the connection has failed or was closed."""
        self._offer: session_description.SessionDescription | None = None
        self._sends = False

        @self.connection.on("connectionstatechange")
        def changed() -> None:
            if self.connection.connectionState in ("failed", "closed"):
                self.closed.set()

    def send(self, track: MediaStreamTrack, codec: str) -> None:
        """Send `track`, whose packets are encoded with `codec` (`video/VP8`). Call it before `answer`."""
        self._sends = True
        transceiver = self.connection.addTransceiver(track, direction="sendonly")
        codecs = [c for c in RTCRtpSender.getCapabilities("video").codecs if c.mimeType == codec]
        transceiver.setCodecPreferences(codecs)

    async def answer(self, text: str, *, directions: Sequence[str]) -> str:
        """The SDP answer to the offer `text`; the connection is set up in the background. Raises HTTPException."""
        self._offer = check_offer(text, directions=directions)
        try:
            await self.connection.setRemoteDescription(RTCSessionDescription(text, "offer"))
            self._reject_other_media()
            await self.connection.setLocalDescription(await self.connection.createAnswer())
        except Exception as error:
            await self.close()
            raise HTTPException(406, f"the offer cannot be answered: {str(error)[:120]}") from error
        return self.connection.localDescription.sdp

    def video(self) -> MediaStreamTrack | None:
        """The video track that the peer sends, if any."""
        for transceiver in self.connection.getTransceivers():
            if transceiver.kind == "video" and transceiver.direction == "recvonly":
                return transceiver.receiver.track
        return None

    async def add_candidates(self, fragment: str) -> None:
        """Add trickled ICE candidates (RFC 8840). Raises HTTPException: 400 for bad syntax, 422 for an ICE restart."""
        offer = self._offer
        if offer is None:
            raise HTTPException(409, "this session has no offer yet")
        names = {media.ice.usernameFragment for media in offer.media if media.ice is not None}
        mid: str | None = offer.media[0].rtp.muxId
        try:
            for line in fragment.splitlines():
                if line.startswith("a=ice-ufrag:") and line.partition(":")[2].strip() not in names:
                    raise HTTPException(422, "ICE restarts are not supported; end this session and start a new one")
                if line.startswith("a=mid:"):
                    mid = line[6:].strip()
                if line.startswith("a=candidate:"):
                    candidate = session_description.candidate_from_sdp(line[12:])
                    candidate.sdpMid = mid
                    await self.connection.addIceCandidate(candidate)
        except (ValueError, AssertionError, IndexError) as error:
            raise HTTPException(400, "not an ICE candidate fragment") from error

    async def close(self) -> None:
        """Close the connection within CLOSE_SECONDS. Idempotent."""
        self.closed.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.connection.close()

    def _reject_other_media(self) -> None:
        """Answer audio and further video sections as inactive: nothing reads them."""
        chosen = False
        for transceiver in self.connection.getTransceivers():
            if transceiver.kind == "video" and not chosen:
                chosen = True
                if not self._sends:
                    transceiver.direction = "recvonly"
            else:
                transceiver.direction = "inactive"
