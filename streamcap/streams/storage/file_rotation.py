"""`FileRotation`: the older parts of `NAME.jsonl`: when it is rotated, what they are called, which are removed."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamcap.errors import InputError

log = logging.getLogger(__name__)

DAY_SECONDS = 86_400.0
# Interval of looking for files to remove, and of trying again what the disk refused.
CHECK_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class RotationOptions:
    """When `NAME.jsonl` is rotated, and how long its older parts are kept."""

    rotate_bytes: int = 100_000_000
    """`NAME.jsonl` is rotated before it exceeds this; 0: never."""
    keep_days: float | None = None
    """Older parts are removed when their newest caption is older; the file is then rotated daily too. None: never."""
    keep_files: int | None = None
    """Older parts kept of a stream; None: all."""

    def __post_init__(self) -> None:
        if self.rotate_bytes < 0 or 0 < self.rotate_bytes < 4096:
            raise InputError(f"--rotate-bytes {self.rotate_bytes}: 0 (never), or at least 4096")
        if self.keep_days is not None and not 0 < self.keep_days < math.inf:
            raise InputError(f"--keep-days {self.keep_days:g}: days, above 0")
        if self.keep_files is not None and self.keep_files < 0:
            raise InputError(f"--keep-files {self.keep_files}: 0 or more")


class FileRotation:
    """Renames `NAME.jsonl` to `NAME.jsonl.SEQ`, SEQ the number of its last caption in 12 digits, and removes old parts.

    One rename: after a crash at any moment each caption is in exactly one file. Blocking; for one thread. Files that
    other programs named, such as `NAME.jsonl.1` of logrotate, are never touched.
    """

    def __init__(self, jsonl: Path, options: RotationOptions, wall: Callable[[], float] = time.time) -> None:
        self._jsonl = jsonl
        self._options = options
        self._wall = wall
        self._name = re.compile(re.escape(jsonl.name) + r"\.(\d{12})(?:-(\d{1,6}))?")
        self._check_at = 0.0
        self._warned = False

    def parts(self) -> list[Path]:
        """The older parts, newest first. Raises OSError."""
        found: list[tuple[int, int, Path]] = []
        with os.scandir(self._jsonl.parent) as entries:
            for entry in entries:
                match = self._name.fullmatch(entry.name)
                if match and entry.is_file(follow_symlinks=False):
                    found.append((int(match[1]), int(match[2] or 1), Path(entry.path)))
        return [path for _, _, path in sorted(found, reverse=True)]

    def is_due(self, size: int, began: float) -> bool:
        """Whether to rotate the file before it has `size` bytes. began: its first caption, seconds since 1970."""
        options = self._options
        if options.rotate_bytes and size > options.rotate_bytes:
            return True
        return options.keep_days is not None and self._wall() - began >= DAY_SECONDS

    def rotate(self, last_seq: int) -> None:
        """Make the file an older part; the next final begins a new one. Raises OSError."""
        newest = next(iter(self.parts()), None)
        match = self._name.fullmatch(newest.name) if newest is not None else None
        number = max(last_seq, int(match[1]) if match else 0)
        target = self._jsonl.with_name(f"{self._jsonl.name}.{number:012d}")
        copy = 1
        # Only the holder of the lock renames, so nothing can appear in between.
        while os.path.lexists(target):
            copy += 1
            target = self._jsonl.with_name(f"{self._jsonl.name}.{number:012d}-{copy}")
        self._jsonl.rename(target)
        self._check_at = 0.0

    def is_time_to_check(self) -> bool:
        """Whether CHECK_SECONDS have passed since this was last true, or the file was rotated."""
        now = self._wall()
        # A wall clock that was set back must not postpone the check.
        if self._check_at - CHECK_SECONDS <= now < self._check_at:
            return False
        self._check_at = now + CHECK_SECONDS
        return True

    def prune(self, is_ours: Callable[[Path], bool]) -> None:
        """Remove the parts that are too many or too old, and whose content `is_ours`. Raises OSError."""
        options = self._options
        if options.keep_days is None and options.keep_files is None:
            return
        oldest = -math.inf if options.keep_days is None else self._wall() - options.keep_days * DAY_SECONDS
        for index, path in enumerate(self.parts()):
            beyond = options.keep_files is not None and index >= options.keep_files
            if (beyond or path.lstat().st_mtime < oldest) and is_ours(path):
                path.unlink(missing_ok=True)
                log.info("%s is removed: beyond --keep-%s", path, "files" if beyond else "days")

    def report(self, error: OSError) -> None:
        """Log why rotating or removing failed, once until `recovered`. Captions are not affected."""
        if not self._warned:
            self._warned = True
            log.warning(
                "%s cannot be rotated, or old parts not removed: %s; it grows until that works",
                *(self._jsonl, error.strerror or error),
            )

    def recovered(self) -> None:
        """Rotating and removing work."""
        self._warned = False
