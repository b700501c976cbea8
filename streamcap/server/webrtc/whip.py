"""WHIP: who publishes video to which stream, one at a time for each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import VideoFrame
from starlette.exceptions import HTTPException

from streamcap.server.options import ServerOptions
from streamcap.server.webrtc.offers import OfferPace
from streamcap.server.webrtc.session import WebRtcSession, is_there
from streamcap.streams.stream import Stream
from streamcap.streams.stream_set import StreamSet

log = logging.getLogger(__name__)

# From the answer to the first frame: ICE, DTLS and the first keyframe.
FIRST_FRAME_SECONDS = 20.0
# How long a stream that a publisher made by coming outlives its leaving: time to come back after a break.
ABANDONED_SECONDS = 300.0
SWEEP_SECONDS = 15.0


@dataclass(slots=True)
class WhipSession:
    """One publisher: its connection, and the task that hands its frames on."""

    name: str
    peer: WebRtcSession
    task: asyncio.Task[None] | None = None
    reason: str = "the publisher left"


@dataclass(slots=True)
class _AdHocStream:
    """A stream that a publisher made by coming."""

    stream: Stream
    left: float | None = None
    """Monotonic seconds when its last publisher left; None while one is there."""


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
        """A new publisher of stream `name`, which is made if there is none, and the SDP answer.

        Raises HTTPException (409: the name is taken; 400, 406: the offer; 503: too many), InputError (the name).
        """
        if name in self._whip_sessions:
            raise HTTPException(409, f"someone publishes to {name} already")
        self._pace.check()
        publisher = self._whip_sessions[name] = WhipSession(name, WebRtcSession(self._options.ice_servers))
        try:
            await self._pace.turn()
            answer = await publisher.peer.answer(offer, directions=("sendonly", "sendrecv"))
            track = publisher.peer.video()
            if track is None:
                raise HTTPException(406, "no video that can be decoded is offered")
            stream = await self._stream(name)
        except BaseException:  # a cancelled request, too, must free the name and the connection
            del self._whip_sessions[name]
            await publisher.peer.close()
            raise
        publisher.task = asyncio.create_task(self._receive(publisher, stream, track), name=f"whip-{name}")
        return publisher, answer

    def find(self, name: str, session: str) -> WhipSession:
        """The publisher of that session. Raises HTTPException (404)."""
        publisher = self._whip_sessions.get(name)
        if publisher is None or publisher.peer.id != session:
            raise HTTPException(404, f"there is no such session of {name[:80]}")
        return publisher

    async def end(self, publisher: WhipSession, reason: str) -> None:
        """End one; its stream waits for the next. Idempotent."""
        publisher.reason = reason
        if publisher.task is not None:
            publisher.task.cancel()
            await asyncio.wait((publisher.task,))

    async def close(self) -> None:
        """End all."""
        await asyncio.gather(*(self.end(one, "the service is stopping") for one in list(self._whip_sessions.values())))

    async def remove_abandoned_periodically(self) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.remove_abandoned()
            except Exception:  # one stream's trouble must not leave all others standing for ever
                log.exception("streams that nobody publishes to were not removed; this is tried again")

    async def remove_abandoned(self) -> None:
        """Remove the streams that publishers made by coming, and left ABANDONED_SECONDS ago; no others."""
        for name, made in list(self._ad_hoc.items()):
            if not is_there(self._streams, made.stream):
                del self._ad_hoc[name]
            elif made.left is not None and self._monotonic() - made.left >= ABANDONED_SECONDS:
                log.info("stream %s is removed: nobody has published to it for %g s", name, ABANDONED_SECONDS)
                # Forgotten once it is gone, by the next sweep: what fails is tried again.
                await self._streams.remove(name)

    async def _stream(self, name: str) -> Stream:
        if name not in self._streams.names():
            stream = await self._streams.add(name, "whip:")
            self._ad_hoc[name] = _AdHocStream(stream)
            return stream
        stream = self._streams.get(name)
        if not stream.url.startswith("whip:"):
            raise HTTPException(409, f"stream {name} is fed by {stream.url}; publish under another name")
        if name in self._ad_hoc:
            self._ad_hoc[name].left = None
        return stream

    async def _receive(self, publisher: WhipSession, stream: Stream, track: MediaStreamTrack) -> None:
        """Hand on frames until the publisher goes, falls silent, or the stream is removed."""
        patience = FIRST_FRAME_SECONDS
        try:
            while is_there(self._streams, stream):
                async with asyncio.timeout(patience):
                    video_frame = await track.recv()
                patience = self._options.publisher_timeout
                source = stream.push_source()
                if isinstance(video_frame, VideoFrame) and source is not None:
                    source.offer(video_frame)
        except TimeoutError:
            publisher.reason = f"the publisher sent no frame for {patience:g} s"
        except MediaStreamError:
            publisher.reason = "the publisher left"
        finally:
            log.info("WHIP publisher of %s: %s", publisher.name, publisher.reason)
            source = stream.push_source()
            if source is not None:
                source.finish(publisher.reason)
            # Cancelled or not, the connection is closed before the name is free again.
            await asyncio.shield(publisher.peer.close())
            self._whip_sessions.pop(publisher.name, None)
            made = self._ad_hoc.get(publisher.name)
            if made is not None:
                made.left = self._monotonic()
