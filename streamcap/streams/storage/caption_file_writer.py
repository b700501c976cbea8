"""`CaptionFileWriter`: writes a stream's files on its own thread, and reserves numbers in them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from streamcap.captions.cue import Cue
from streamcap.captions.event import Event
from streamcap.daemon_pool import DaemonPool
from streamcap.streams.counters import Counters
from streamcap.streams.storage.caption_files import CaptionFiles, SavedHistory
from streamcap.streams.storage.event_outbox import Outgoing
from streamcap.streams.storage.file_rotation import RotationOptions

# How long reading the files of a new stream may take.
OPEN_SECONDS = 10.0
# How long `close` waits for the lock file. After that it is released when the disk answers.
UNLOCK_SECONDS = 1.0
# A disk that has not answered for this long hangs: a status says so, and the events being written become a gap.
HANG_SECONDS = 3.0


class CaptionFileWriter:
    """A `CaptionStore`. Each stream has its own thread for the disk: a disk that hangs blocks no other stream."""

    medium = "the disk"
    extend_delay = 0.0  # the files keep finals only
    is_lost = False  # the lock keeps others away

    def __init__(self, directory: Path, stream: str, rotation: RotationOptions) -> None:
        self.reserved = Counters()
        """Where a later run starts, as stored on the disk."""
        self.path = directory / f"{stream}.jsonl"
        self._files = CaptionFiles(directory, stream, rotation)
        self._thread = DaemonPool(f"files-{stream}")

    async def open(self, window: float, first: Counters) -> SavedHistory:
        """Lock the files, read the last `window` seconds of them, and reserve numbers from `first` or higher.

        Raises FilesLockedError if another stream or process writes them.
        """
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._thread.run(self._files.lock)
                history = await self._thread.run(self._files.load_history, window)
                await self.reserve_seq(history.counters.union(first))
        except TimeoutError:
            raise TimeoutError(f"{self.path}: the disk did not answer within {OPEN_SECONDS:g} s") from None
        return history

    def is_low(self, needed: Counters) -> bool:
        """Whether the reservation must be renewed."""
        return self.reserved.is_low(needed)

    async def reserve_seq(self, needed: Counters) -> None:
        """Reserve well beyond `needed`: a later run starts there."""
        ahead = needed.reservation()
        await self._thread.run(self._files.write_counters, ahead)
        self.reserved = ahead

    @property
    def hang_seconds(self) -> float:
        return HANG_SECONDS

    def keeps(self, event: Event | Outgoing) -> bool:
        return event.is_final

    async def append(self, events: Sequence[Event], needed: Counters) -> None:
        await self._thread.run(self._files.append, [event.text for event in events])

    async def write_cues(self, cues: Iterable[Cue]) -> None:
        await self._thread.run(self._files.write_cues, cues)

    async def release_unused(self, counters: Counters) -> None:
        """A clean end: a later run continues at `counters`."""
        await self._thread.run(self._files.write_counters, counters)

    async def close(self) -> None:
        """Unlock the files once the running call has returned. Idempotent."""
        with contextlib.suppress(RuntimeError):  # closed already
            unlocked = asyncio.wrap_future(self._thread.submit(self._files.unlock))
            self._thread.close()
            await asyncio.wait((unlocked,), timeout=UNLOCK_SECONDS)
