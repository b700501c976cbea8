from __future__ import annotations

from streamcap.cluster.engines.credit import FIRST_SAMPLES, HELD_SECONDS, MIN_SAMPLES, OWNER_SECONDS, Credit
from tests.cluster.engines.samples import Clock


def test_an_engine_holds_what_it_captions_in_half_a_second() -> None:
    credit = Credit(128, Clock())
    assert credit.samples == FIRST_SAMPLES
    credit.measure(100, 2.0)
    assert credit.samples == round(50 * HELD_SECONDS)
    credit.measure(100, 2.0)  # nothing came
    assert credit.samples == round(50 * HELD_SECONDS)
    credit.measure(100_100, 12.0)
    assert credit.samples == 128


def test_a_slow_engine_holds_one_more_than_it_runs() -> None:
    credit = Credit(128, Clock())
    credit.measure(1, 4.0)
    assert credit.samples == MIN_SAMPLES


def test_nodes_share_an_engine_by_their_streams() -> None:
    credit = Credit(128, Clock())
    credit.measure(128, 1.0)
    assert credit.set_demand("large", 90) and credit.set_demand("small", 10)
    assert not credit.set_demand("small", 10)
    assert credit.windows() == {"large": 57, "small": 6}


def test_every_node_with_streams_may_send_one() -> None:
    credit = Credit(128, Clock())
    for number in range(20):
        credit.set_demand(f"node{number}", 1)
    assert set(credit.windows().values()) == {1}


def test_a_node_that_is_silent_has_no_share() -> None:
    clock = Clock()
    credit = Credit(128, clock)
    credit.set_demand("dead", 50)
    credit.set_demand("idle", 50)
    credit.set_demand("alive", 50)
    credit.set_demand("idle", 0)
    clock.now += OWNER_SECONDS / 2
    credit.set_demand("alive", 50)
    clock.now += OWNER_SECONDS / 2
    assert credit.windows() == {"alive": FIRST_SAMPLES}
