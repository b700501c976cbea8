from __future__ import annotations

import pytest

from streamcap.engine.fair_share import FairShare


def run(share: FairShare, costs: dict[str, float], turns: int) -> dict[str, float]:
    """The seconds that each of `costs` (seconds a turn) used, if all wait all the time."""
    used = dict.fromkeys(costs, 0.0)
    for _ in range(turns):
        name = share.choose(costs)
        share.charge(name, costs[name])
        used[name] += costs[name]
    return used


def test_slow_and_fast_model_get_equal_time() -> None:
    used = run(FairShare(), {"fast": 0.01, "slow": 0.5}, 510)
    assert used["fast"] == pytest.approx(used["slow"], abs=0.5)


def test_pause_gives_no_right_to_a_long_turn() -> None:
    share = FairShare()
    run(share, {"a": 1.0, "late": 1.0}, 2)
    run(share, {"a": 1.0}, 1000)
    assert run(share, {"a": 1.0, "late": 1.0}, 10) == {"a": 5.0, "late": 5.0}


def test_none_waiting_is_an_error() -> None:
    with pytest.raises(ValueError):
        FairShare().choose([])
