"""`ReferenceCache`: the images of last finals, as features, that an engine keeps for the streams that it captions."""

from __future__ import annotations

from collections import OrderedDict

from streamcap.engine.change_gate import Features

MAX_BYTES = 256 * 1024 * 1024


class ReferenceCache:
    """They are too large to travel with each sample (38 kB an image with `mini`). An engine that lacks them decodes
    once, and compares the words.

    Policy when full: the stream that was captioned longest ago is forgotten, counted in `forgotten`. Pure.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.forgotten = 0
        self.bytes = 0
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, tuple[str, list[Features]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, stream: str, final: str) -> list[Features]:
        """The references of the final with the id `final`; empty if its images are not here."""
        known, references = self._entries.get(stream, ("", []))
        return list(references) if known == final else []

    def put(self, stream: str, final: str, references: list[Features]) -> None:
        self._drop(stream)
        if not references:
            return
        self._entries[stream] = final, list(references)
        self.bytes += _size(references)
        while self.bytes > self._max_bytes and len(self._entries) > 1:
            self.forgotten += 1
            self._drop(next(iter(self._entries)))

    def _drop(self, stream: str) -> None:
        if stream in self._entries:
            self.bytes -= _size(self._entries.pop(stream)[1])


def _size(references: list[Features]) -> int:
    return sum(reference.nbytes for reference in references)
