"""`Filing`: the task that keeps a stream's files up to date without ever blocking the loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable

from streamcap.captions.cue import Cue
from streamcap.service.files import CaptionFiles

log = logging.getLogger(__name__)

# Finals kept for a disk that is full at the moment. Policy when full: DROP_OLDEST, counted.
PENDING_FINALS = 10_000
# The subtitle files are rewritten whole; once a second is as live as a player reloads them.
REWRITE_SECONDS = 1.0
RETRY_SECONDS = 2.0


class Filing:
    """Finals are appended at once, subtitle files rewritten at most every REWRITE_SECONDS.

    Parameters:
        cues: gives the present window of the subtitle files.
        last_seq: gives the newest sequence number sent.
        on_trouble: hears one line when writing begins to fail, and an empty one when it works again. Finals are
            kept meanwhile, up to PENDING_FINALS.

    All calls on the loop; the disk is touched on worker threads, by one at a time.
    """

    def __init__(
        self,
        files: CaptionFiles,
        cues: Callable[[], list[Cue]],
        last_seq: Callable[[], int],
        on_trouble: Callable[[str], None],
    ) -> None:
        self.dropped = 0
        self._files = files
        self._cues = cues
        self._last_seq = last_seq
        self._on_trouble = on_trouble
        self._pending: deque[str] = deque()
        self._stale = False
        self._wake = asyncio.Event()
        self._closing = False
        self._reserve_at = 0
        self._trouble = ""

    def add(self, line: str) -> None:
        """A final to append."""
        self._pending.append(line)
        self.touch()

    def touch(self) -> None:
        """The cues have changed."""
        self._stale = True
        self._wake.set()

    def count(self, seq: int) -> None:
        """Event `seq` was sent: numbers are reserved on disk before they run out."""
        if seq >= self._reserve_at:
            self._wake.set()

    def close(self) -> None:
        """Let `run` write what waits and return."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Until `close`. Do not cancel it: a write on its thread cannot be called back."""
        loop = asyncio.get_running_loop()
        rewrite_at = loop.time()
        while not self._closing:
            await self._wait(max(0.0, rewrite_at - loop.time()) if self._stale else None)
            due = self._stale and loop.time() >= rewrite_at
            if due:
                rewrite_at = loop.time() + REWRITE_SECONDS
            if not await self._write(due):
                await self._wait(RETRY_SECONDS)
        await self._write(due=True)
        with contextlib.suppress(OSError):  # said already by the write before it
            await asyncio.to_thread(self._files.settle, self._last_seq() + 1)

    async def _wait(self, timeout: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        if not self._closing:
            self._wake.clear()

    async def _write(self, due: bool) -> bool:
        """Append the waiting finals and, when `due`, rewrite the subtitle files; whether the disk took it."""
        lines = list(self._pending)
        try:
            self._reserve_at = await asyncio.to_thread(self._files.reserve, self._last_seq())
            if lines:
                await asyncio.to_thread(self._files.append, lines)
                for _ in lines:
                    self._pending.popleft()
            if due:
                self._stale = False
                await asyncio.to_thread(self._files.write_cues, self._cues())
        except OSError as error:
            self._stale = self._stale or due
            while len(self._pending) > PENDING_FINALS:
                self._pending.popleft()
                self.dropped += 1
            self._say(f"cannot write {error.filename or self._files.jsonl}: {error.strerror or error}")
            return False
        self._say("")
        return True

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            self._on_trouble(trouble)
