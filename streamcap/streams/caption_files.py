"""`CaptionFiles`: `NAME.srt`, `NAME.vtt` and `NAME.jsonl` of a stream, and `.NAME.state` with its reservation.

The files are complete at any moment, also after a crash.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from streamcap.atomic import replacing
from streamcap.captions.caption import Caption
from streamcap.captions.cue import Cue, to_ms
from streamcap.captions.event import Event
from streamcap.captions.formats import jsonl, srt, vtt
from streamcap.errors import InputError
from streamcap.streams.counters import MAX_STATE_BYTES, Counters, caption_number, format_counters, parse_counters

log = logging.getLogger(__name__)

# If the state file is lost: what may have been published beyond the newest final.
LOST_NUMBERS = 1000
LOST_SECONDS = 60.0
# A tail of this size holds thousands of captions. More is read if the subtitle window needs it.
TAIL_BYTES = 2_000_000
# Never more than this, whatever the window: a day of captions.
MAX_TAIL_BYTES = 64_000_000


class FilesLockedError(InputError):
    """Another stream or process writes the files."""


@dataclass(frozen=True, slots=True)
class SavedHistory:
    """The captions and counters of an earlier run."""

    finals: list[Event]
    shown: list[Caption]
    """The same captions with their end on screen. An `extend` may have moved it, and is not in the JSONL."""
    counters: Counters
    """Numbers, ids and times that the run did not use."""


class CaptionFiles:
    """Blocking; for one thread at a time. Methods raise OSError."""

    def __init__(self, directory: Path, stream: str) -> None:
        self.srt = directory / f"{stream}.srt"
        self.vtt = directory / f"{stream}.vtt"
        self.jsonl = directory / f"{stream}.jsonl"
        self.state = directory / f".{stream}.state"
        self._stream = stream
        self._lock_path = directory / f".{stream}.lock"
        self._lock_file: BinaryIO | None = None

    def lock(self) -> None:
        """Lock the files until `unlock` or the end of the process.

        Raises FilesLockedError if another stream or process has the lock. Does nothing on systems and file systems
        without locks.
        """
        self._check_regular()
        if os.name != "posix":
            return
        import fcntl

        file = self._lock_path.open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise FilesLockedError(
                f"{self.jsonl} is being written by another stream or process; choose another name, or another --out"
            ) from None
        except OSError:
            file.close()
            return
        self._lock_file = file

    def unlock(self) -> None:
        """Release the lock. Idempotent."""
        file, self._lock_file = self._lock_file, None
        if file is not None:
            file.close()

    def load_history(self, window: float) -> SavedHistory:
        """Read the finals of at least the newest `window` seconds; end a last line that a crash cut off."""
        cues = self._cue_times()
        finals: list[Event] = []
        shown: list[Caption] = []
        if self.jsonl.exists():
            with self.jsonl.open("rb+") as file:
                size, tail = file.seek(0, os.SEEK_END), TAIL_BYTES
                while True:
                    file.seek(max(0, size - tail))
                    data = file.read()
                    parsed = jsonl.parse_lines(data, stream=self._stream, is_tail=tail < size)
                    finals = [event for event, _ in parsed.finals]
                    shown = _with_cue_ends([caption for _, caption in parsed.finals], cues)
                    if min(size, MAX_TAIL_BYTES) <= tail or (shown and shown[0].start <= shown[-1].end - window):
                        break
                    tail *= 2
                if data and not data.endswith(b"\n"):
                    # The broken line stays, but the next line must not continue it.
                    file.write(b"\n")
                if parsed.skipped:
                    line = parsed.first_skipped + _count_lines(file, size - len(data))
                    log.warning(
                        "%s: %d lines skipped, the first is line %d: %s",
                        *(self.jsonl, parsed.skipped, line, parsed.reason),
                    )
        return SavedHistory(finals, shown, self._counters(finals, shown))

    def write_counters(self, counters: Counters) -> None:
        """Store where a later run starts, whatever happens to the other files."""
        _replace(self.state, format_counters(self._stream, counters))

    def append(self, lines: Sequence[str]) -> None:
        """Append finals. Unbuffered, so that a crash loses nothing. No partial line stays if the disk is full."""
        data = "".join(f"{line}\n" for line in lines).encode()
        with self.jsonl.open("ab", buffering=0) as file:
            begin = file.tell()
            try:
                written = 0
                while written < len(data):
                    written += file.write(data[written:]) or 0
            except OSError:
                # All lines will be written again.
                file.truncate(begin)
                raise

    def write_cues(self, cues: Iterable[Cue]) -> None:
        """Replace the two subtitle files. No cues, no files: ffprobe rejects an empty SubRip file."""
        shown = list(cues)
        if shown:
            _replace(self.srt, srt.render(shown))
            _replace(self.vtt, vtt.render(shown))

    def _check_regular(self) -> None:
        """Opening a FIFO blocks for ever; a device or a directory fails at every write. Raises OSError."""
        for path in (self.jsonl, self.srt, self.vtt, self.state, self._lock_path):
            try:
                mode = path.stat().st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(mode):
                raise OSError(errno.EINVAL, "not a regular file; move it away", str(path))

    def _counters(self, finals: list[Event], shown: list[Caption]) -> Counters:
        """From the state file, which log rotation does not touch, but never below the finals."""
        filed = Counters()
        if finals and shown:
            ends = max(caption.end for caption in shown)
            filed = Counters(finals[-1].seq + 1, caption_number(shown[-1].id) + 1, shown[-1].epoch, ends)
        try:
            with self.state.open("rb") as file:
                return filed.union(parse_counters(file.read(MAX_STATE_BYTES + 1), self._stream))
        except FileNotFoundError:
            pass
        except ValueError as error:
            log.warning("%s is ignored: %s", self.state, error)
        # Skip what may have been published but is not in the files.
        return filed.ahead(LOST_NUMBERS, LOST_SECONDS) if finals else filed

    def _cue_times(self) -> list[tuple[int, int]]:
        """Start and end of every cue of the WebVTT file, in ms."""
        try:
            with self.vtt.open("rb") as file:
                data = file.read(MAX_TAIL_BYTES)
        except FileNotFoundError:
            return []
        return vtt.parse_times(data.decode(errors="replace"))


def _count_lines(file: BinaryIO, size: int) -> int:
    """Number of line ends in the first `size` bytes of `file`."""
    file.seek(0)
    count = 0
    while size > 0 and (data := file.read(min(size, 1 << 20))):
        count += data.count(b"\n")
        size -= len(data)
    return count


def _with_cue_ends(captions: list[Caption], cues: list[tuple[int, int]]) -> list[Caption]:
    """`captions`, in order, each extended to the end of the cue it starts in, or to the next caption."""
    starts = [start for start, _ in cues]
    shown = []
    for number, caption in enumerate(captions):
        begin = to_ms(caption.start)
        # Rounding may move the start by a millisecond.
        index = bisect_right(starts, begin + 1) - 1
        if index >= 0 and cues[index][1] > begin:
            end = cues[index][1] / 1000
            if number + 1 < len(captions):
                end = min(end, captions[number + 1].start)
            caption = replace(caption, end=end)
        shown.append(caption)
    return shown


def _replace(path: Path, text: str) -> None:
    with replacing(path) as stream:
        stream.write(text.encode())
