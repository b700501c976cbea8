"""`DaemonPool`: daemon threads for calls that may hang, so that nothing else waits for them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from streamcap.errors import StreamcapError

T = TypeVar("T")


class PoolFullError(StreamcapError):
    """As many calls wait as the pool takes."""


class DaemonPool:
    """Runs calls on at most `max_threads` threads, in order; at most `max_waiting` calls wait.

    The threads are daemons: a call that never returns keeps neither the process nor another pool. With one thread the
    calls follow each other.
    """

    def __init__(self, name: str, *, max_threads: int = 1, max_waiting: int = 64) -> None:
        self._name = name
        self._max_threads = max_threads
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Queue `function(*args)`. From any thread; never blocks. Raises PoolFullError, RuntimeError after `close`."""
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError(f"the threads {self._name} were closed")
            if len(self._waiting) >= self._max_waiting:
                raise PoolFullError(f"{self._name}: {len(self._waiting)} calls wait already; try again in a moment")
            self._waiting.append((future, lambda: function(*args)))
            if self._idle >= len(self._waiting) or self._threads == self._max_threads:
                self._changed.notify()
                return future
            self._threads += 1
            name = f"{self._name}-{self._threads}"
        threading.Thread(target=self._run, name=name, daemon=True).start()
        return future

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """`function(*args)` on a thread. Cancelled, it does not wait for a call that has begun. Raises as `submit`."""
        return await asyncio.wrap_future(self.submit(function, *args))

    def close(self) -> None:
        """Let the threads end when all queued calls have returned. Idempotent; does not wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._idle -= 1
                if not self._waiting:
                    self._threads -= 1
                    return
                future, call = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - the caller's to handle, whatever it is
                future.set_exception(error)
            # Neither is to live on in an idle thread.
            del future, call
