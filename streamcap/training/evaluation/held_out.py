"""Which images of the pool are never used in training. The rule depends on file names only, so that anyone can check
it.

The first 8 hexadecimal digits of the SHA-256 of a file name, divided by 16^8, are a number in [0, 1). An image is held
out if that number is below the share of its source, which is the part of the name before the first `-`. Images with
captions have a share of their own. All three clips are held out.
"""

from __future__ import annotations

import hashlib
from typing import Final

CAPTIONED_SHARE: Final = 1 / 6
LABELED_SHARES: Final[dict[str, float]] = {
    "voc5": 0.12,
    "lehtcoco": 0.34,
    "catdog": 0.033,
    "caltech": 0.02,
    "inet1k": 0.04,
    "nyu": 0.028,
    "ade": 0.04,
    "intel": 0.017,
    "camvid": 0.09,
    "gtea": 0.05,
    "jetson": 0.3,
    "animals": 0.05,
}
"""Photographs like those of cameras have larger shares; about 600 images in all."""


def source_of(name: str) -> str:
    """The source of an image: the part of its name before the first `-`."""
    return name.split("-", 1)[0]


def is_held_out(name: str, *, captioned: bool) -> bool:
    """Whether an image is for evaluation only. captioned: it has captions by people."""
    share = CAPTIONED_SHARE if captioned else LABELED_SHARES.get(source_of(name), 0.0)
    place = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8
    return place < share
