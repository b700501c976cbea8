"""`FileRetention`: `--keep-days` for the files of streams that no longer run."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from streamcap.atomic import open_regular
from streamcap.daemon_pool import DaemonPool
from streamcap.streams.counters import MAX_STATE_BYTES, parse_counters
from streamcap.streams.storage.caption_files import CaptionFiles, FilesLockedError
from streamcap.streams.storage.file_rotation import CHECK_SECONDS, RotationOptions

log = logging.getLogger(__name__)


class FileRetention:
    """Rotates and removes by age what the streams of earlier times left in `--out`.

    A stream is recognized by its `.NAME.state`. Those that another process writes are left to it.
    """

    def __init__(self, directory: Path, options: RotationOptions, *, wall: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._options = options
        self._wall = wall
        self._warned = False

    async def watch(self, running: Callable[[], Iterable[str]]) -> None:
        """Check every CHECK_SECONDS until cancelled. running: names of the streams that look after their files."""
        thread = DaemonPool("retention")  # a disk may hang
        try:
            while self._options.keep_days is not None:
                await thread.run(self.check, frozenset(running()))
                await asyncio.sleep(CHECK_SECONDS)
        finally:
            thread.close()

    def check(self, running: frozenset[str] = frozenset()) -> None:
        """Go once through the directory. Blocking; logs what the disk refuses, once until it works."""
        try:
            for name in sorted(self._names() - running):
                files = CaptionFiles(self._directory, name, self._options, wall=self._wall)
                try:
                    files.lock()
                    files.retain()
                except FilesLockedError:
                    continue
                finally:
                    files.unlock()
        except OSError as error:
            if not self._warned:
                log.warning("old parts of removed streams cannot be removed: %s", error)
            self._warned = True
        else:
            self._warned = False

    def _names(self) -> set[str]:
        """Streams that have a state file of ours."""
        found = set()
        with os.scandir(self._directory) as entries:
            for entry in entries:
                name = entry.name.removeprefix(".").removesuffix(".state")
                if entry.name == f".{name}.state" and _is_state(Path(entry.path), name):
                    found.add(name)
        return found


def _is_state(path: Path, name: str) -> bool:
    try:
        with open(path, "rb", opener=open_regular) as file:
            parse_counters(file.read(MAX_STATE_BYTES + 1), name)
    except (OSError, ValueError):
        return False
    return True
