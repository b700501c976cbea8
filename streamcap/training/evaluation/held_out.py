"""Which images of the pool no training ever sees. The rule reads nothing but file names, so that it can be checked.

A name's place is the first 8 hexadecimal digits of its SHA-256 over 16^8, which lies in [0, 1). An image is held out
where its place is below the share of its source: the part of the name before the first `-`. Captioned images have a
share of their own. All three clips are held out.
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
"""Photographs of the kind that cameras show have the larger shares; about 600 images in all."""


def source_of(name: str) -> str:
    """The pool's source that an image name begins with."""
    return name.split("-", 1)[0]


def is_held_out(name: str, *, captioned: bool) -> bool:
    """Whether an image is for measuring alone. captioned: it has captions written by people."""
    share = CAPTIONED_SHARE if captioned else LABELED_SHARES.get(source_of(name), 0.0)
    place = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8
    return place < share
