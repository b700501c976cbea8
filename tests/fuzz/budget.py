"""Number of fuzzing inputs: few in CI, STREAMCAP_FUZZ_EXAMPLES in total with `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("STREAMCAP_FUZZ_EXAMPLES", "0"))


def fuzz(share: float, few: int) -> settings:
    """Settings of one property: `few` examples, the same ones each time, or its `share` of EXAMPLES, new each time."""
    return settings(
        max_examples=max(1, round(share * EXAMPLES)) if EXAMPLES else few,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
