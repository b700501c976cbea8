"""`CaptionStore`: where a stream's events are kept before a viewer receives them: files, or a log on other machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from streamcap.captions.cue import Cue
from streamcap.captions.event import Event
from streamcap.streams.counters import Counters
from streamcap.streams.storage.caption_files import SavedHistory
from streamcap.streams.storage.event_outbox import Outgoing


class CaptionStore(Protocol):
    """All methods run on the event loop, one call at a time, and raise OSError."""

    @property
    def path(self) -> object:
        """Where the events go, for messages."""

    @property
    def medium(self) -> str:
        """What does not answer if a call hangs, for messages."""

    @property
    def reserved(self) -> Counters:
        """Where a later run starts, as stored. Nothing beyond it may be published."""

    @property
    def hang_seconds(self) -> float:
        """A call that takes longer hangs: a gap covers the events that are being written."""

    @property
    def extend_delay(self) -> float:
        """Seconds from one write to the next if only the end of the newest final has moved since."""

    @property
    def is_lost(self) -> bool:
        """Whether another writer continues the stream, so that nothing more may be written or published."""

    def keeps(self, event: Event | Outgoing) -> bool:
        """Whether `event` must be stored before it is published."""

    async def open(self, window: float, first: Counters) -> SavedHistory:
        """Claim the stream, read the last `window` seconds of it, and reserve numbers from `first` or higher.

        Raises FilesLockedError if another stream or process writes it.
        """

    def is_low(self, needed: Counters) -> bool:
        """Whether the reservation must be renewed."""

    async def reserve_seq(self, needed: Counters) -> None:
        """Reserve well beyond `needed`: a later run starts there."""

    async def append(self, events: Sequence[Event], needed: Counters) -> None:
        """Store `events`, all of which `keeps`. `needed`: the counters after them."""

    async def write_cues(self, cues: Iterable[Cue]) -> None:
        """Replace the rolling subtitles."""

    async def release_unused(self, counters: Counters) -> None:
        """A clean end: a later run continues at `counters`."""

    async def close(self) -> None:
        """Let others write the stream. Idempotent."""
