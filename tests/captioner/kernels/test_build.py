"""The instruction sets that ready-built kernels are compiled for."""

from __future__ import annotations

import itertools

from streamcap.captioner.kernels import build


def test_levels_need_less_and_less() -> None:
    """The first level whose features a processor has is the best it can run."""
    for levels in build.LEVELS.values():
        for better, worse in itertools.pairwise(levels):
            assert len(better.features) >= len(worse.features)
            assert better.name != worse.name
