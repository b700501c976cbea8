"""What must never be touched: a file that detects opens, and a server that detects requests."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_IN_ACCESS_OR_OPEN = 0x01 | 0x20


class Canary:
    """`file`, a copy of a video, and `address`, a TCP server on the loopback. `with` starts and ends it."""

    def __init__(self, video: Path, folder: Path, host: str = "127.0.0.1") -> None:
        self.file = folder / f"canary{video.suffix}"
        shutil.copy(video, self.file)
        self._requests: list[bytes] = []
        self._listener = socket.create_server((host, 0))
        self.port = int(self._listener.getsockname()[1])
        self.address = f"{host}:{self.port}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        libc = ctypes.CDLL(None, use_errno=True)
        self._watch = libc.inotify_init1(os.O_NONBLOCK)
        watched = libc.inotify_add_watch(self._watch, os.fsencode(self.file), _IN_ACCESS_OR_OPEN)
        assert watched >= 0, os.strerror(ctypes.get_errno())
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        os.close(self._watch)

    def touched(self) -> list[str]:
        """Accesses since the last call; empty is correct. A request counts once it is read."""
        events = []
        with suppress(BlockingIOError):
            if os.read(self._watch, 65_536):
                events.append("the file was opened")
        requests, self._requests = self._requests, []
        return [*events, *(f"the server got a request: {request!r}" for request in requests)]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            request = b""
            with connection, suppress(OSError):
                connection.settimeout(2.0)
                request = connection.recv(200)
            self._requests.append(request)
