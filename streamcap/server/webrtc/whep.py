"""`WhepSessions`: WebRTC viewers of stream previews (WHEP)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from streamcap.server.options import ServerOptions
from streamcap.server.webrtc.loading import load_webrtc
from streamcap.server.webrtc.offers import OfferPace
from streamcap.server.webrtc.preview import CODEC, Preview
from streamcap.server.webrtc.rules import is_registered, refuse_elsewhere
from streamcap.streams.stream import Stream
from streamcap.streams.stream_set import StreamSet

if TYPE_CHECKING:
    from streamcap.server.webrtc.preview_track import PreviewTrack
    from streamcap.server.webrtc.session import WebRtcSession

log = logging.getLogger(__name__)

# Limit for ICE and DTLS.
CONNECT_SECONDS = 15.0
# Encoders running at once; few, because captioning needs the CPU.
ENCODER_THREADS = 1


@dataclass(slots=True)
class WhepSession:
    name: str
    peer: WebRtcSession
    track: PreviewTrack
    task: asyncio.Task[None] | None = None


class WhepSessions:
    """Starts, finds and ends viewers; one preview per watched stream. All calls on the event loop."""

    def __init__(self, streams: StreamSet, options: ServerOptions, pace: OfferPace) -> None:
        self._streams = streams
        self._pace = pace
        self._options = options
        self._whep_sessions: dict[str, WhepSession] = {}
        self._previews: dict[str, Preview] = {}
        self._executor = ThreadPoolExecutor(ENCODER_THREADS, thread_name_prefix="preview")

    def __len__(self) -> int:
        return len(self._whep_sessions)

    async def watch(self, name: str, offer: str) -> tuple[WhepSession, str]:
        """Start a session that watches stream `name`. Returns it and the SDP answer.

        Raises HTTPException (400, 406: the offer; 503: too many), UnknownStreamError.
        """
        await load_webrtc()
        from streamcap.server.webrtc.session import WebRtcSession

        preview = self._preview(name)
        if len(self._whep_sessions) >= self._options.max_whep_sessions:
            raise HTTPException(
                503, f"{len(self._whep_sessions)} viewers watch video already, the maximum", {"Retry-After": "5"}
            )
        self._pace.check()
        track = preview.join()
        session = WhepSession(name, WebRtcSession(self._options.ice_servers), track)
        self._whep_sessions[session.peer.id] = session
        try:
            await self._pace.turn()
            session.peer.send(track, CODEC)
            answer = await session.peer.answer(offer, directions=("recvonly", "sendrecv"))
        except BaseException:  # also when the request is cancelled: free the encoder and the connection
            del self._whep_sessions[session.peer.id]
            track.stop()
            await session.peer.close()
            raise
        session.task = asyncio.create_task(self._supervise(session, preview.stream), name=f"whep-{name}")
        return session, answer

    def find(self, name: str, session_id: str) -> WhepSession:
        """The session with that id. Raises HTTPException (404)."""
        session = self._whep_sessions.get(session_id)
        if session is None or session.name != name:
            raise HTTPException(404, f"stream {name[:80]} has no such session")
        return session

    async def end(self, session: WhepSession) -> None:
        """End a session. Idempotent."""
        if session.task is not None:
            session.task.cancel()
            await asyncio.wait((session.task,))

    async def close(self) -> None:
        """End all sessions."""
        await asyncio.gather(*(self.end(session) for session in list(self._whep_sessions.values())))
        await asyncio.gather(*(preview.close() for preview in self._previews.values()))
        self._executor.shutdown(wait=False)

    def _preview(self, name: str) -> Preview:
        stream = self._streams.get(name)
        refuse_elsewhere(stream, f"whep/{name}")
        for unused in [other for other, preview in self._previews.items() if not preview.watched and other != name]:
            del self._previews[unused]
        preview = self._previews.get(name)
        if preview is None or preview.stream is not stream:
            preview = self._previews[name] = Preview(stream, self._executor)
        return preview

    async def _supervise(self, session: WhepSession, stream: Stream) -> None:
        """Until the connection is closed, is not set up in time, or the stream is removed."""
        started_at = asyncio.get_running_loop().time()
        peer = session.peer
        try:
            while is_registered(self._streams, stream) and not peer.closed.is_set():
                timed_out = asyncio.get_running_loop().time() - started_at > CONNECT_SECONDS
                if timed_out and peer.connection.connectionState != "connected":
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await peer.closed.wait()
        finally:
            session.track.stop()
            await asyncio.shield(peer.close())
            self._whep_sessions.pop(peer.id, None)
