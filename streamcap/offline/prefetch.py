"""`Prefetcher`: runs an iterator in a thread, a bounded number of items ahead of its reader."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Iterates `items` in a thread. The thread waits while `depth` items are unread; nothing is dropped.

    An exception of `items` is raised in the reader, after all earlier items. Leaving the `with` block stops the thread
    after its current item and waits for it to end.
    """

    def __init__(self, items: Iterator[T], depth: int, name: str) -> None:
        self._items = items
        self._depth = depth
        self._ready: deque[T] = deque()
        self._failure: BaseException | None = None
        self._ended = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._ended)
                if not self._ready:
                    if self._failure is not None:
                        raise self._failure
                    return
                item = self._ready.popleft()
                self._changed.notify_all()
            yield item

    def _work(self) -> None:
        failure: BaseException | None = None
        try:
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._ready) < self._depth or self._closed)
                    if self._closed:
                        return
                    self._ready.append(item)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - re-raised in the reader
            failure = error
        finally:
            with self._changed:
                self._failure = failure
                self._ended = True
                self._changed.notify_all()
