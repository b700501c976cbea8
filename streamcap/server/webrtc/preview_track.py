"""`PreviewTrack`: the packets of a preview on their way to one viewer. Imported by `loading.py`, with aiortc."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

if TYPE_CHECKING:
    from av.packet import Packet as AnyPacket
    from av.video.stream import VideoStream

    Packet = AnyPacket[VideoStream]

# Packets that wait for one viewer. Policy when full: all are dropped, and it continues at the next keyframe.
QUEUE_PACKETS = 24


class PreviewTrack(MediaStreamTrack):
    """VP8 packets for one viewer; aiortc only packetizes them."""

    kind = "video"

    def __init__(self, leave: Callable[[PreviewTrack], None]) -> None:
        """leave: called when the viewer has left."""
        super().__init__()
        self._leave = leave
        self._packets: deque[Packet] = deque()
        self._changed = asyncio.Event()
        self._waits_for_keyframe = True

    def offer(self, packet: Packet) -> None:
        """Queue a packet. A full queue is emptied and refilled from the next keyframe."""
        if len(self._packets) >= QUEUE_PACKETS:
            self._packets.clear()
            self._waits_for_keyframe = True
        if self._waits_for_keyframe and not packet.is_keyframe:
            return
        self._waits_for_keyframe = False
        self._packets.append(packet)
        self._changed.set()

    async def recv(self) -> Packet:
        while not self._packets:
            if self.readyState != "live":
                raise MediaStreamError
            self._changed.clear()
            await self._changed.wait()
        return self._packets.popleft()

    def stop(self) -> None:
        if self.readyState == "live":
            super().stop()
            self._changed.set()
            self._leave(self)
