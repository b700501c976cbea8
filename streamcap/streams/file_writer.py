"""`CaptionFileWriter`: the task that keeps a stream's files up to date without ever blocking the loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable

from streamcap.captions.caption import Caption
from streamcap.captions.cue import Cue
from streamcap.captions.event import Payload, encode
from streamcap.daemon_pool import DaemonPool
from streamcap.streams.caption_files import CaptionFiles

log = logging.getLogger(__name__)

# Finals kept for a disk that is full at the moment. Policy when full: DROP_OLDEST, counted.
MAX_PENDING_FINALS = 10_000
# The subtitle files are rewritten whole; once a second is as live as a player reloads them. A long window on a busy
# machine, or a slow disk, makes it rarer: so many times what one rewrite takes, within bounds.
REWRITE_INTERVAL_S = 1.0
REWRITE_SHARE = 20
MAX_REWRITE_INTERVAL_S = 10.0
RETRY_SECONDS = 2.0
# Events that wait for a disk which hangs. Policy when full: the oldest is published before it is filed.
MAX_HELD_EVENTS = 64


class CaptionFileWriter:
    """Finals are appended at once, subtitle files rewritten at most every REWRITE_SECONDS, rarer if that takes long.

    A final is filed before it is published, so that no crash can lose what a viewer has seen; what follows it waits
    its turn. A disk that refuses holds nothing up: the final is published, and filed when the disk takes it.

    Parameters:
        worker: one thread, of this stream alone: a disk that hangs stops no other stream.
        cues: gives the present window of the subtitle files; it is gone through on a worker thread.
        last_seq: gives the newest sequence number sent.
        release: publishes a payload, live or not, under the next number. Nobody else publishes for this stream.
        on_trouble: hears one line when writing begins to fail, and an empty one when it works again. Finals are
            kept meanwhile, up to PENDING_FINALS.

    All calls on the loop; the disk is touched on `worker` alone.
    """

    def __init__(
        self,
        files: CaptionFiles,
        worker: DaemonPool,
        cues: Callable[[], Iterable[Cue]],
        last_seq: Callable[[], int],
        release: Callable[[Payload, bool], object],
        on_problem: Callable[[str], None],
    ) -> None:
        self.dropped = 0
        self._files = files
        self._worker = worker
        self._cues = cues
        self._last_seq = last_seq
        self._release = release
        self._on_problem = on_problem
        self._held: deque[tuple[Payload, bool]] = deque()
        self._num_writing = 0  # of those held, the oldest that are being filed
        self._pending: deque[str] = deque()
        self._stale = False
        self._wake = asyncio.Event()
        self._closing = False
        self._ended = False
        self._reserve_at = 0
        self._rewrite_at = 0.0
        self._problem = ""

    def publish(self, payload: Payload, *, live: bool) -> None:
        """In order: a final once it is filed, all else at once unless a final is before it."""
        if not self._ended and (self._held or _is_final(payload)):
            self._held.append((payload, live))
            self.touch()
            if len(self._held) > MAX_HELD_EVENTS:
                self._release_next()
            return
        self._release(payload, live)
        if self._last_seq() >= self._reserve_at:
            self._wake.set()

    def touch(self) -> None:
        """The cues have changed."""
        self._stale = True
        self._wake.set()

    def close(self) -> None:
        """Let `run` write what waits and return."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Until `close`. Do not cancel it: a write on its thread cannot be called back."""
        try:
            await self._write_until_closed()
        except Exception:  # whatever becomes of the files, viewers are not to wait for them
            log.exception("%s is written no more", self._files.jsonl)
        finally:
            self._ended = True
            while self._held:
                self._release_next()

    async def _write_until_closed(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closing:
            if not self._held:
                await self._wait(max(0.0, self._rewrite_at - loop.time()) if self._stale else None)
            due = self._stale and loop.time() >= self._rewrite_at
            if due:
                self._rewrite_at = loop.time() + REWRITE_INTERVAL_S
            if not await self._write(due) and not self._held:
                await self._wait(RETRY_SECONDS)
        await self._write(due=True)
        with contextlib.suppress(OSError):  # said already by the write before it
            await self._worker.run(self._files.release_unused, self._last_seq() + 1)

    async def _wait(self, timeout: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        if not self._closing:
            self._wake.clear()

    async def _write(self, due: bool) -> bool:
        """File and publish what is held, and rewrite the subtitle files when `due`; whether the disk took it all."""
        seq = self._last_seq()
        self._num_writing = len(self._held)
        numbered = enumerate(self._held, seq + 1)
        self._pending += [encode(number, payload).text for number, (payload, _) in numbered if _is_final(payload)]
        problem: OSError | None = None
        try:
            await self._append(list(self._pending), seq + self._num_writing)
        except OSError as error:
            problem = error
        # What came in the meantime has lined up behind, so that these get the numbers they were filed under.
        while self._num_writing:
            self._release_next()
        try:
            if due and problem is None:
                self._stale = False
                time = asyncio.get_running_loop().time
                began = time()
                await self._worker.run(self._files.write_cues, self._cues())
                self._rewrite_at = began + pause(time() - began)
        except OSError as error:
            self._stale = True
            problem = error
        while len(self._pending) > MAX_PENDING_FINALS:
            self._pending.popleft()
            self.dropped += 1
        self._report_problem(
            "" if problem is None else f"cannot write {problem.filename or self._files.jsonl}: {_error_text(problem)}"
        )
        return problem is None

    def _release_next(self) -> None:
        payload, live = self._held.popleft()
        if self._num_writing:
            self._num_writing -= 1
        elif _is_final(payload):
            self._pending.append(encode(self._last_seq() + 1, payload).text)
        self._release(payload, live)

    async def _append(self, lines: list[str], last_seq: int) -> None:
        if last_seq >= self._reserve_at:
            self._reserve_at = await self._worker.run(self._files.reserve_seq, last_seq)
        if lines:
            await self._worker.run(self._files.append, lines)
            for _ in lines:
                self._pending.popleft()

    def _report_problem(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._on_problem(problem)


def pause(cost: float) -> float:
    """Seconds from the beginning of a rewrite of the subtitle files, which took `cost` seconds, to that of the next."""
    return max(REWRITE_INTERVAL_S, min(REWRITE_SHARE * cost, MAX_REWRITE_INTERVAL_S))


async def wait_through_cancel(task: asyncio.Task[None]) -> None:
    """Until `CaptionFileWriter.run`'s `task` is done, through cancellations of the caller's own, which then take effect."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


def _is_final(payload: Payload) -> bool:
    return isinstance(payload, Caption) and payload.is_final


def _error_text(error: OSError) -> str:
    return error.strerror or str(error)
