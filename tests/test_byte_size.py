from __future__ import annotations

import pytest

from streamcap.byte_size import parse_bytes
from streamcap.errors import InputError


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), (4096, 4096), ("100MB", 100_000_000), ("1.5 g", 1_500_000_000), ("20 GB", 20 * 10**9), ("7kb", 7000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text, "--rotate-bytes") == size


@pytest.mark.parametrize("text", ["", "-1", "MB", "1e9", "10 XB", "nan", "1" * 40, "٣"])
def test_wrong_sizes_are_named(text: str) -> None:
    with pytest.raises(InputError, match="--rotate-bytes"):
        parse_bytes(text, "--rotate-bytes")
