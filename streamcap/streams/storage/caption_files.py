"""`CaptionFiles`: `NAME.srt`, `NAME.vtt` and `NAME.jsonl` of a stream, and `.NAME.state` with its reservation.

The files are complete at any moment, also after a crash. Symbolic links are not followed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from streamcap.atomic import check_regular, open_regular, replacing
from streamcap.captions.caption import Caption
from streamcap.captions.cue import Cue, to_ms
from streamcap.captions.event import Event
from streamcap.captions.formats import jsonl, srt, vtt
from streamcap.captions.formats.checks import MAX_LINE_BYTES
from streamcap.errors import InputError
from streamcap.streams.counters import MAX_STATE_BYTES, Counters, caption_number, format_counters, parse_counters
from streamcap.streams.storage.file_rotation import FileRotation, RotationOptions

log = logging.getLogger(__name__)

# If the state file is lost: what may have been published beyond the newest final.
LOST_NUMBERS = 1000
LOST_SECONDS = 60.0
# A tail of this size holds thousands of captions. More is read if the subtitle window needs it.
TAIL_BYTES = 2_000_000
# Never more than this, whatever the window: a day of captions.
MAX_TAIL_BYTES = 64_000_000
LOCK_ATTEMPTS = 3
LOCK_SECONDS = 0.05


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

    def __init__(
        self,
        directory: Path,
        stream: str,
        rotation: RotationOptions | None = None,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.srt = directory / f"{stream}.srt"
        self.vtt = directory / f"{stream}.vtt"
        self.jsonl = directory / f"{stream}.jsonl"
        self.state = directory / f".{stream}.state"
        self._stream = stream
        self._lock_path = directory / f".{stream}.lock"
        self._lock_file: BinaryIO | None = None
        self._wall = wall
        self._rotation = FileRotation(self.jsonl, rotation or RotationOptions(), wall)
        self._began: float | None = None
        """Time of the first final in the file, seconds since 1970; None: not known yet."""

    def lock(self) -> None:
        """Lock the files until `unlock` or the end of the process.

        Raises FilesLockedError if another stream or process has the lock. Does nothing on systems and file systems
        without locks.
        """
        self._check_regular()
        if os.name != "posix":
            return
        import fcntl

        file = open(self._lock_path, "wb", opener=open_regular)  # noqa: SIM115 - open while locked
        for attempt in range(LOCK_ATTEMPTS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # `FileRetention` holds it for a moment.
                if attempt < LOCK_ATTEMPTS - 1:
                    time.sleep(LOCK_SECONDS)
                    continue
                file.close()
                raise FilesLockedError(
                    f"{self.jsonl} is being written by another stream or process; choose another name, or another --out"
                ) from None
            except OSError:
                file.close()
                return
            self._lock_file = file
            return

    def unlock(self) -> None:
        """Release the lock. Idempotent."""
        file, self._lock_file = self._lock_file, None
        if file is not None:
            file.close()

    def load_history(self, window: float) -> SavedHistory:
        """Read the finals of at least the newest `window` seconds, over rotations; end a line that a crash cut off."""
        cues = self._cue_times()
        found: list[tuple[Event, Caption]] = []
        left = MAX_TAIL_BYTES

        def shown() -> list[Caption]:
            return _with_cue_ends([caption for _, caption in found], cues)

        def is_covered() -> bool:
            captions = shown()
            return bool(captions) and captions[0].start <= captions[-1].end - window

        for path in (self.jsonl, *self._parts()):
            newer = found

            def take(finals: list[tuple[Event, Caption]], newer: list[tuple[Event, Caption]] = newer) -> bool:
                nonlocal found
                found = finals + newer
                return is_covered()

            try:
                left -= self._read_tail(path, left, take)
            except FileNotFoundError:
                continue  # rotated, and nothing written since
            if left <= 0 or is_covered():
                break
        finals = [event for event, _ in found]
        return SavedHistory(finals, shown(), self._counters(finals, shown()))

    def _read_tail(self, path: Path, limit: int, take: Callable[[list[tuple[Event, Caption]]], bool]) -> int:
        """Give `take` the finals at the end of a file, more of them until it returns True. Returns the bytes read."""
        with open(path, "rb+", opener=open_regular) as file:
            size, tail = file.seek(0, os.SEEK_END), min(TAIL_BYTES, limit)
            while True:
                file.seek(max(0, size - tail))
                data = file.read()
                parsed = jsonl.parse_lines(data, stream=self._stream, is_tail=tail < size)
                if take(parsed.finals) or min(size, limit) <= tail:
                    break
                tail = min(2 * tail, limit)
            if data and not data.endswith(b"\n"):
                # The broken line stays, but the next line must not continue it.
                file.write(b"\n")
            if parsed.skipped:
                line = parsed.first_skipped + _count_lines(file, size - len(data))
                log.warning("%s: %d lines skipped, the first is line %d: %s", path, parsed.skipped, line, parsed.reason)
        return len(data)

    def write_counters(self, counters: Counters) -> None:
        """Store where a later run starts, whatever happens to the other files."""
        _replace(self.state, format_counters(self._stream, counters))
        # Called every few seconds of a stream's time, also while nothing is written.
        self.retain()

    def append(self, lines: Sequence[str]) -> None:
        """Append finals. Unbuffered, so that a crash loses nothing. No partial line stays if the disk is full."""
        data = "".join(f"{line}\n" for line in lines).encode()
        self._rotate_if_due(len(data))
        with open(self.jsonl, "ab", buffering=0, opener=open_regular) as file:
            begin = file.tell()
            if begin == 0:
                self._began = self._wall()
            try:
                written = 0
                while written < len(data):
                    written += file.write(data[written:]) or 0
            except OSError:
                # All lines will be written again.
                file.truncate(begin)
                raise

    def retain(self) -> None:
        """Rotate and remove by age. Never raises OSError."""
        if not self._rotation.is_time_to_check():
            return
        self._rotate_if_due(0)
        try:
            self._rotation.prune(self._is_ours)
            self._rotation.recovered()
        except OSError as error:
            self._rotation.report(error)

    def write_cues(self, cues: Iterable[Cue]) -> None:
        """Replace the two subtitle files. No cues, no files: ffprobe rejects an empty SubRip file."""
        shown = list(cues)
        if shown:
            _replace(self.srt, srt.render(shown))
            _replace(self.vtt, vtt.render(shown))

    def _check_regular(self) -> None:
        """Opening a FIFO blocks for ever; a device or a directory fails at every write. Raises OSError."""
        for path in (self.jsonl, self.srt, self.vtt, self.state, self._lock_path):
            check_regular(path)

    def _parts(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):  # no directory yet
            return self._rotation.parts()
        return []

    def _rotate_if_due(self, more: int) -> None:
        """Rotate the file if `more` bytes would make it too large, or if it is too old. Never raises OSError."""
        try:
            size = self.jsonl.lstat().st_size
            if not size:
                return
            if self._began is None:
                self._began = self._first_time()
            if self._rotation.is_due(size + more, self._began):
                self._rotation.rotate(self._last_seq())
                self._began = None
                self._rotation.recovered()
        except FileNotFoundError:
            self._began = None
        except OSError as error:  # captions continue in the same file
            self._rotation.report(error)

    def _is_ours(self, path: Path) -> bool:
        """Whether a file begins with finals of this stream: nothing else may be removed. Raises OSError."""
        with open(path, "rb", opener=open_regular) as file:
            return bool(jsonl.parse_lines(file.read(2 * MAX_LINE_BYTES), stream=self._stream).finals)

    def _first_time(self) -> float:
        """When the first final of the file was captured; the time of the newest if its line is broken."""
        with open(self.jsonl, "rb", opener=open_regular) as file:
            line = file.readline(MAX_LINE_BYTES + 1)
            try:
                return jsonl.parse(line, stream=self._stream)[1].captured_at
            except ValueError:
                return os.fstat(file.fileno()).st_mtime

    def _last_seq(self) -> int:
        """The number of the last final in the file; 0 if it has none."""
        with open(self.jsonl, "rb", opener=open_regular) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 2 * MAX_LINE_BYTES))
            finals = jsonl.parse_lines(file.read(), stream=self._stream, is_tail=size > 2 * MAX_LINE_BYTES).finals
        return finals[-1][0].seq if finals else 0

    def _counters(self, finals: list[Event], shown: list[Caption]) -> Counters:
        """From the state file, which log rotation does not touch, but never below the finals."""
        filed = Counters()
        if finals and shown:
            ends = max(caption.end for caption in shown)
            filed = Counters(finals[-1].seq + 1, caption_number(shown[-1].id) + 1, shown[-1].epoch, ends)
        try:
            with open(self.state, "rb", opener=open_regular) as file:
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
            with open(self.vtt, "rb", opener=open_regular) as file:
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
            caption = caption._replace(end=end)
        shown.append(caption)
    return shown


def _replace(path: Path, text: str) -> None:
    with replacing(path) as stream:
        stream.write(text.encode())
