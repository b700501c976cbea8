from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from streamcap.cluster.assignment.balance import SETTLE_SECONDS, Balance, NodeLoad, fair_share


class Site:
    """Nodes that balance, in simulated time. Streams without a node wait."""

    def __init__(self, streams: int) -> None:
        self.now = 0.0
        self.streams = streams
        self.loads: dict[str, NodeLoad] = {}
        self.moves = 0
        self._balances: dict[str, Balance] = {}

    def join(self, name: str, capacity: int) -> None:
        self.loads[name] = NodeLoad(name, capacity, 0)
        self._balances[name] = Balance(name, lambda: self.now)

    @property
    def waiting(self) -> int:
        return self.streams - sum(load.streams for load in self.loads.values())

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        waiting_since = self.now
        while self.now < end:
            for name, balance in self._balances.items():
                while self.waiting > 0 and balance.may_take(
                    self.loads.values(), self.streams, waiting_s=self.now - waiting_since
                ):
                    self._count(name, 1)
                if balance.should_give_back(self.loads.values(), self.streams):
                    self._count(name, -1)
                    self.moves += 1
            if self.waiting == 0:
                waiting_since = self.now
            self.now += 0.25

    def _count(self, name: str, change: int) -> None:
        self.loads[name] = replace(self.loads[name], streams=self.loads[name].streams + change)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=8), st.integers(0, 500))
def test_shares_place_all_streams_that_fit(capacities: list[int], streams: int) -> None:
    loads = [NodeLoad(str(number), capacity, 0) for number, capacity in enumerate(capacities)]
    shares = [fair_share(load.id, loads, streams) for load in loads]
    assert sum(shares) >= min(streams, sum(capacities))
    assert all(share <= load.capacity for share, load in zip(shares, loads, strict=True))


def test_joining_node_gets_its_share_and_no_more_moves() -> None:
    site = Site(300)
    for name in ("a", "b", "c"):
        site.join(name, 200)
    site.run(10)
    assert sorted(load.streams for load in site.loads.values()) == [100, 100, 100]
    assert site.moves == 0
    site.join("d", 200)
    site.run(300)
    assert {name: load.streams for name, load in site.loads.items()} == dict.fromkeys("abcd", 75)
    assert site.moves <= 1.3 * 300 / 4


def test_node_that_returns_soon_moves_nothing() -> None:
    site = Site(40)
    site.join("a", 40)
    site.run(1)
    site.join("b", 40)
    site.run(SETTLE_SECONDS / 2)
    assert site.moves == 0


def test_full_nodes_leave_the_rest_waiting() -> None:
    site = Site(30)
    site.join("a", 10)
    site.join("b", 10)
    site.run(20)
    assert site.waiting == 10


def test_untaken_streams_may_exceed_the_share() -> None:
    loads = [NodeLoad("a", 100, 50), NodeLoad("b", 100, 20)]
    balance = Balance("a", lambda: 0.0)
    assert not balance.may_take(loads, 100)
    assert balance.may_take(loads, 100, waiting_s=SETTLE_SECONDS)


def test_busy_or_draining_node_takes_nothing() -> None:
    balance = Balance("a", lambda: 0.0)
    assert not balance.may_take([NodeLoad("a", 100, 1)], 10, cpu=0.95)
    assert not balance.may_take([NodeLoad("a", 100, 1, is_closed=True)], 10)
    assert not balance.should_give_back([NodeLoad("a", 100, 9)], 9)
