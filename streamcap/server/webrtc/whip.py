"""`WhipSessions`: WebRTC publishers (WHIP), at most one per stream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from av import VideoFrame
from starlette.exceptions import HTTPException

from streamcap.server.options import ServerOptions
from streamcap.server.webrtc.loading import load_webrtc
from streamcap.server.webrtc.offers import OfferPace
from streamcap.server.webrtc.rules import is_registered
from streamcap.streams.stream import Stream
from streamcap.streams.stream_set import StreamSet

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack

    from streamcap.server.webrtc.session import WebRtcSession

log = logging.getLogger(__name__)

# Limit from the answer to the first frame: ICE, DTLS and the first keyframe.
FIRST_FRAME_SECONDS = 20.0
REMOVAL_CHECK_SECONDS = 1.0
# An ad-hoc stream is kept this long after its publisher left, so that the publisher can reconnect.
ABANDONED_SECONDS = 300.0
SWEEP_SECONDS = 15.0


@dataclass(slots=True)
class WhipSession:
    """One publisher: its connection, and the task that forwards its frames."""

    name: str
    peer: WebRtcSession
    task: asyncio.Task[None] | None = None
    reason: str = "the publisher left"


@dataclass(slots=True)
class _AdHocStream:
    """A stream created by a publisher, not by the command line or `POST /streams`."""

    stream: Stream
    left_at: float | None = None
    """Monotonic seconds when its publisher left; None while it publishes."""


class WhipSessions:
    """Starts, finds and ends publishers. All calls on the event loop."""

    def __init__(
        self,
        streams: StreamSet,
        options: ServerOptions,
        pace: OfferPace,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._streams = streams
        self._pace = pace
        self._options = options
        self._monotonic = monotonic
        self._whip_sessions: dict[str, WhipSession] = {}
        self._ad_hoc: dict[str, _AdHocStream] = {}

    def __len__(self) -> int:
        return len(self._whip_sessions)

    async def publish(self, name: str, offer: str) -> tuple[WhipSession, str]:
        """Start a publisher of stream `name`, created if it does not exist. Returns the session and the SDP answer.

        Raises HTTPException (409: name in use; 400, 406: the offer; 503: too many offers), InputError (the name).
        """
        await load_webrtc()
        from streamcap.server.webrtc.session import WebRtcSession

        if name in self._whip_sessions:
            raise HTTPException(409, f"stream {name} already has a publisher")
        self._pace.check()
        publisher = self._whip_sessions[name] = WhipSession(name, WebRtcSession(self._options.ice_servers))
        try:
            await self._pace.turn()
            answer = await publisher.peer.answer(offer, directions=("sendonly", "sendrecv"))
            track = publisher.peer.video()
            if track is None:
                raise HTTPException(406, "the offer has no video that can be decoded")
            stream = await self._stream(name)
        except BaseException:  # also when the request is cancelled: free the name and the connection
            del self._whip_sessions[name]
            await publisher.peer.close()
            raise
        publisher.task = asyncio.create_task(self._receive(publisher, stream, track), name=f"whip-{name}")
        return publisher, answer

    def find(self, name: str, session_id: str) -> WhipSession:
        """The session with that id. Raises HTTPException (404)."""
        publisher = self._whip_sessions.get(name)
        if publisher is None or publisher.peer.id != session_id:
            raise HTTPException(404, f"stream {name[:80]} has no such session")
        return publisher

    async def end(self, publisher: WhipSession, reason: str) -> None:
        """End a session; its stream waits for the next publisher. Idempotent."""
        publisher.reason = reason
        if publisher.task is not None:
            publisher.task.cancel()
            await asyncio.wait((publisher.task,))

    async def close(self) -> None:
        """End all sessions."""
        sessions = list(self._whip_sessions.values())
        await asyncio.gather(*(self.end(session, "the service is stopping") for session in sessions))

    async def remove_abandoned_periodically(self) -> None:
        """Run `remove_abandoned` every SWEEP_SECONDS until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.remove_abandoned()
            except Exception:  # an error of one stream must not stop the sweep
                log.exception("removing abandoned streams failed; retrying in %g s", SWEEP_SECONDS)

    async def remove_abandoned(self) -> None:
        """Remove ad-hoc streams whose publisher left at least ABANDONED_SECONDS ago."""
        for name, ad_hoc in list(self._ad_hoc.items()):
            if not is_registered(self._streams, ad_hoc.stream):
                del self._ad_hoc[name]
            elif ad_hoc.left_at is not None and self._monotonic() - ad_hoc.left_at >= ABANDONED_SECONDS:
                log.info("removing stream %s: no publisher for %g s", name, ABANDONED_SECONDS)
                # The next sweep deletes the entry; if the removal fails, it retries.
                await self._streams.remove(name)

    async def _stream(self, name: str) -> Stream:
        if name not in self._streams.names():
            stream = await self._streams.add(name, "whip:")
            self._ad_hoc[name] = _AdHocStream(stream)
            return stream
        stream = self._streams.get(name)
        if not stream.url.startswith("whip:"):
            raise HTTPException(409, f"stream {name} reads {stream.url}; publish under another name")
        stream = await self._streams.adopt(name)
        if name in self._ad_hoc:
            self._ad_hoc[name].left_at = None
        return stream

    async def _receive(self, publisher: WhipSession, stream: Stream, track: MediaStreamTrack) -> None:
        """Forward frames until the publisher disconnects or stops sending, or the stream is removed."""
        from aiortc.mediastreams import MediaStreamError

        loop = asyncio.get_running_loop()
        timeout_s = FIRST_FRAME_SECONDS
        last_at = loop.time()
        try:
            while is_registered(self._streams, stream):
                # A publisher without frames must not keep its sockets after its stream is removed.
                wait_s = min(REMOVAL_CHECK_SECONDS, last_at + timeout_s - loop.time())
                try:
                    async with asyncio.timeout(wait_s):
                        video_frame = await track.recv()
                except TimeoutError:
                    if loop.time() < last_at + timeout_s:
                        continue
                    raise
                timeout_s, last_at = self._options.publisher_timeout, loop.time()
                source = stream.push_source()
                if isinstance(video_frame, VideoFrame) and source is not None:
                    source.offer(video_frame)
            publisher.reason = "the stream was removed"
        except TimeoutError:
            publisher.reason = f"the publisher sent no frame for {timeout_s:g} s"
        except MediaStreamError:
            publisher.reason = "the publisher left"
        finally:
            log.info("WHIP publisher of %s: %s", publisher.name, publisher.reason)
            source = stream.push_source()
            if source is not None:
                source.finish(publisher.reason)
            # Shielded: the connection must be closed before the name is free again.
            await asyncio.shield(publisher.peer.close())
            self._whip_sessions.pop(publisher.name, None)
            ad_hoc = self._ad_hoc.get(publisher.name)
            if ad_hoc is not None:
                ad_hoc.left_at = self._monotonic()
