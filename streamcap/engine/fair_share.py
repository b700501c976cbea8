"""`FairShare`: the next user of a shared device or server is the one that has used it least."""

from __future__ import annotations

from collections.abc import Iterable


class FairShare:
    """Counts what each name has used (seconds, requests) and chooses the least of those that wait. Pure.

    Who waits again after a pause starts level with the one chosen last, so that a pause gives no right to a long turn.
    """

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._level = 0.0

    def choose(self, waiting: Iterable[str]) -> str:
        """The name of `waiting` that has used the least; of equal ones the first. Raises ValueError for none."""
        for name in (names := list(waiting)):
            self._used[name] = max(self._used.get(name, 0.0), self._level)
        chosen = min(names, key=self._used.__getitem__)
        self._level = self._used[chosen]
        return chosen

    def charge(self, name: str, amount: float) -> None:
        """`name` has used `amount` more."""
        self._used[name] = self._used.get(name, self._level) + amount

    def forget(self, name: str) -> None:
        self._used.pop(name, None)
