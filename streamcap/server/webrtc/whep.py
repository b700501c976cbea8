"""WHEP: who watches which stream's video."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from starlette.exceptions import HTTPException

from streamcap.server.options import ServerOptions
from streamcap.server.webrtc.offers import OfferPace
from streamcap.server.webrtc.preview import CODEC, Preview, PreviewTrack
from streamcap.server.webrtc.session import WebRtcSession, is_there
from streamcap.streams.stream import Stream
from streamcap.streams.stream_set import StreamSet

log = logging.getLogger(__name__)

# ICE and DTLS are done within this, or nobody is there.
CONNECT_SECONDS = 15.0
# Encoders at work at once: captioning comes first.
ENCODER_THREADS = 1


@dataclass(slots=True)
class WhepSession:
    name: str
    peer: WebRtcSession
    track: PreviewTrack
    task: asyncio.Task[None] | None = None


class WhepSessions:
    """Starts, finds and ends watchers; one preview for each stream that is watched. All calls on the event loop."""

    def __init__(self, streams: StreamSet, options: ServerOptions, pace: OfferPace) -> None:
        self._streams = streams
        self._pace = pace
        self._options = options
        self._whep_sessions: dict[str, WhepSession] = {}
        self._previews: dict[str, tuple[object, Preview]] = {}
        self._executor = ThreadPoolExecutor(ENCODER_THREADS, thread_name_prefix="preview")

    def __len__(self) -> int:
        return len(self._whep_sessions)

    async def watch(self, name: str, offer: str) -> tuple[WhepSession, str]:
        """A new watcher of stream `name`, and the SDP answer. Raises HTTPException, UnknownStreamError."""
        preview = self._preview(name)
        if len(self._whep_sessions) >= self._options.max_whep_sessions:
            raise HTTPException(
                503, f"{len(self._whep_sessions)} watch already, the most this service takes", {"Retry-After": "5"}
            )
        self._pace.check()
        track = preview.join()
        watcher = WhepSession(name, WebRtcSession(self._options.ice_servers), track)
        self._whep_sessions[watcher.peer.id] = watcher
        try:
            await self._pace.turn()
            watcher.peer.send(track, CODEC)
            answer = await watcher.peer.answer(offer, directions=("recvonly", "sendrecv"))
        except BaseException:  # a cancelled request, too, must free the encoder and the connection
            del self._whep_sessions[watcher.peer.id]
            track.stop()
            await watcher.peer.close()
            raise
        watcher.task = asyncio.create_task(self._attend(watcher, preview.stream), name=f"whep-{name}")
        return watcher, answer

    def find(self, name: str, session: str) -> WhepSession:
        """The watcher of that session. Raises HTTPException (404)."""
        watcher = self._whep_sessions.get(session)
        if watcher is None or watcher.name != name:
            raise HTTPException(404, f"there is no such session of {name[:80]}")
        return watcher

    async def end(self, watcher: WhepSession) -> None:
        """End one. Idempotent."""
        if watcher.task is not None:
            watcher.task.cancel()
            await asyncio.wait((watcher.task,))

    async def close(self) -> None:
        """End all."""
        await asyncio.gather(*(self.end(watcher) for watcher in list(self._whep_sessions.values())))
        await asyncio.gather(*(preview.close() for _, preview in self._previews.values()))
        self._executor.shutdown(wait=False)

    def _preview(self, name: str) -> Preview:
        stream = self._streams.get(name)
        for gone in [one for one, (of, preview) in self._previews.items() if not preview.watched and one != name]:
            del self._previews[gone]
        known = self._previews.get(name)
        if known is None or known[0] is not stream:
            known = self._previews[name] = (stream, Preview(stream, self._executor))
        return known[1]

    async def _attend(self, watcher: WhepSession, stream: Stream) -> None:
        """Until the connection is over, never comes about, or the stream is removed."""
        began = asyncio.get_running_loop().time()
        peer = watcher.peer
        try:
            while is_there(self._streams, stream) and not peer.over.is_set():
                late = asyncio.get_running_loop().time() - began > CONNECT_SECONDS
                if late and peer.connection.connectionState != "connected":
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await peer.over.wait()
        finally:
            watcher.track.stop()
            await asyncio.shield(peer.close())
            self._whep_sessions.pop(peer.id, None)
