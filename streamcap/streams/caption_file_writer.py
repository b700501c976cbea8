"""`CaptionFileWriter`: a stream's files, written on a thread of their own, and what is reserved in them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from pathlib import Path

from streamcap.captions.cue import Cue
from streamcap.daemon_pool import DaemonPool
from streamcap.streams.caption_files import CaptionFiles, SavedHistory
from streamcap.streams.counters import Counters

# How long the files of a stream that is added may take to be read.
OPEN_SECONDS = 10.0
# How long the lock may take at the end. After that it is let go when the disk answers.
UNLOCK_SECONDS = 1.0
# A reservation goes so far beyond what is needed, and is renewed when half of that is used up. After a crash the next
# run leaves out what was not used of it.
AHEAD_NUMBERS = 1000
AHEAD_SECONDS = 10.0


class CaptionFileWriter:
    """All methods on the event loop; one call at a time. The disk is touched on one thread, of this stream alone: a
    disk that hangs stops no other stream. Methods raise OSError."""

    def __init__(self, directory: Path, stream: str) -> None:
        self.reserved = Counters()
        """What a later run begins with, as it stands on the disk."""
        self.path = directory / f"{stream}.jsonl"
        self._files = CaptionFiles(directory, stream)
        self._thread = DaemonPool(f"files-{stream}")

    async def open(self, window: float, first: Counters) -> SavedHistory:
        """Lock the files and read back `window` seconds of them; go on with `first` at least.

        Raises FilesInUseError where another writes them.
        """
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._thread.run(self._files.lock)
                load_history = await self._thread.run(self._files.load_history, window)
                await self.reserve_seq(load_history.counters.union(first))
        except TimeoutError:
            raise TimeoutError(f"{self.path}: the disk did not answer within {OPEN_SECONDS:g} s") from None
        return load_history

    def is_low(self, needed: Counters) -> bool:
        """Whether the reservation should be renewed."""
        return not self.reserved.covers(needed.ahead(AHEAD_NUMBERS // 2, AHEAD_SECONDS / 2))

    async def reserve_seq(self, needed: Counters) -> None:
        """Make sure that a later run begins well beyond `needed`."""
        ahead = needed.ahead(AHEAD_NUMBERS, AHEAD_SECONDS)
        await self._thread.run(self._files.write_counters, ahead)
        self.reserved = ahead

    async def append(self, lines: list[str]) -> None:
        await self._thread.run(self._files.append, lines)

    async def write_cues(self, cues: Iterable[Cue]) -> None:
        await self._thread.run(self._files.write_cues, cues)

    async def release_unused(self, counters: Counters) -> None:
        """A clean end: a later run may go on with `counters`."""
        await self._thread.run(self._files.write_counters, counters)

    async def close(self) -> None:
        """Let another write the files, once the call in hand has returned. Idempotent."""
        with contextlib.suppress(RuntimeError):  # closed already
            unlocked = asyncio.wrap_future(self._thread.submit(self._files.unlock))
            self._thread.close()
            await asyncio.wait((unlocked,), timeout=UNLOCK_SECONDS)
