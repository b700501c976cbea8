"""`LoopListener`: hands what a source's thread reports to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from streamcap.errors import StreamcapError
from streamcap.media.frame import Frame
from streamcap.media.sources.base import SourceInfo


class Connected(Protocol):
    """Whose source it is."""

    def opened(self, info: SourceInfo) -> None:
        """The source is open."""

    def live(self) -> None:
        """Its first frame has come."""


class LoopListener:
    """A SourceListener that forwards its callbacks from the source's thread to the event loop."""

    def __init__(self, stream: Connected) -> None:
        self._loop = asyncio.get_running_loop()
        self.end: asyncio.Future[StreamcapError | None] = self._loop.create_future()
        self._stream = stream

    def opened(self, info: SourceInfo) -> None:
        self._soon(self._stream.opened, info)

    def first_frame(self, _frame: Frame) -> None:
        self._soon(self._stream.live)

    def ended(self, error: StreamcapError | None) -> None:
        self._soon(self._set_end, error)

    def _set_end(self, error: StreamcapError | None) -> None:
        if not self.end.done():
            self.end.set_result(error)

    def _soon(self, callback: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(callback, *args)
