from __future__ import annotations

import random

from streamcap.streams.backoff import Backoff


def test_delay_grows_with_jitter_and_resets() -> None:
    backoff = Backoff(1.0, 30.0, random.Random(7))
    pauses = [backoff.next() for _ in range(12)]
    assert all(1.0 <= pause <= 30.0 for pause in pauses)
    assert pauses[0] == 1.0
    assert all(pause >= 15.0 for pause in pauses[6:])
    assert len(set(pauses[6:])) > 1
    backoff.reset()
    assert backoff.next() == 1.0


def test_concurrent_cameras_do_not_reconnect_together() -> None:
    third = [[b.next() for _ in range(4)][-1] for b in (Backoff(1, 30, random.Random(n)) for n in range(20))]
    assert max(third) - min(third) > 1.0
