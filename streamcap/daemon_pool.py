"""`DaemonPool`: daemon threads for calls that may hang, so that nothing else is blocked."""

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
    """The queue of the pool is full."""


class DaemonPool:
    """Runs calls on at most `max_threads` threads, in order; at most `max_waiting` calls wait.

    Threads are daemons: a call that never returns blocks neither the end of the process nor another pool. With one
    thread, calls run one after another.
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
                raise PoolFullError(f"{self._name}: {len(self._waiting)} calls are waiting already; retry in a moment")
            self._waiting.append((future, lambda: function(*args)))
            if self._idle >= len(self._waiting) or self._threads == self._max_threads:
                self._changed.notify()
                return future
            self._threads += 1
            name = f"{self._name}-{self._threads}"
        threading.Thread(target=self._run, name=name, daemon=True).start()
        return future

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Await `function(*args)` on a thread. On cancellation, a running call is not awaited. Raises as `submit`."""
        return await asyncio.wrap_future(self.submit(function, *args))

    def close(self) -> None:
        """End the threads after all queued calls. Idempotent; does not wait."""
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
            except BaseException as error:  # noqa: BLE001 - the caller handles it
                future.set_exception(error)
            # An idle thread must not keep references to them.
            del future, call
