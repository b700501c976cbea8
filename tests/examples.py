"""`examples`: how many inputs a property test tries."""

from __future__ import annotations

from hypothesis import settings

_DEFAULT = 100
"""Examples of a property test without a number of its own."""


def examples(count: int) -> int:
    """`count`; in `make check-fast`, whose profile tries fewer inputs, as much less."""
    return max(1, count * settings.default.max_examples // _DEFAULT)
