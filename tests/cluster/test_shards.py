"""A storm that was interrupted goes on with what is left, and says why a part of it broke off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.shards import MAX_BROKEN, run_shards
from tests.cluster.storm import Outcome


class FakeStorm:
    """Reports an early judgement after half of the strikes; `ending` may raise then."""

    def __init__(self, ending: Callable[[Outcome], None] = lambda outcome: None) -> None:
        self.asked: list[tuple[int, int]] = []
        self._ending = ending

    def __call__(self, kills: int, directory: Path, *, seed: int, report: Callable[[Outcome], None]) -> Outcome:
        assert directory.is_dir()
        self.asked.append((kills, seed))
        report(Outcome(strikes={"node node": kills // 2}))
        outcome = Outcome(strikes={"node node": kills}, recoveries_alone=[1.0 * kills], is_complete=True)
        self._ending(outcome)
        return outcome


def run(storm: FakeStorm, path: Path, kills: int = 200) -> tuple[bool, dict[str, Any]]:
    kept = run_shards(storm, kills, path, strikes=50, seed=7, say=lambda line: None)
    return kept, json.loads(path.read_text())


def test_clusters_follow_until_all_strikes_are_judged(tmp_path: Path) -> None:
    storm = FakeStorm()
    kept, found = run(storm, tmp_path / "storm.json", 120)
    assert kept
    assert storm.asked == [(50, 7), (50, 8), (20, 9)]
    assert found["total"]["strikes"] == 120
    assert found["total"]["recovery_alone_p100_s"] == 50.0


def test_interrupted_run_goes_on_with_the_strikes_left(tmp_path: Path) -> None:
    def interrupt(outcome: Outcome) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(FakeStorm(interrupt), tmp_path / "storm.json")
    storm = FakeStorm()
    kept, found = run(storm, tmp_path / "storm.json")
    assert kept
    # 25 of the first cluster were judged before.
    assert storm.asked == [(50, 8), (50, 9), (50, 10), (25, 11)]
    assert found["total"]["strikes"] == 200
    assert run(again := FakeStorm(), tmp_path / "storm.json")[0]
    assert again.asked == []


def test_process_that_ended_by_itself_is_kept_in_the_file(tmp_path: Path) -> None:
    def end(outcome: Outcome) -> None:
        raise AssertionError("it has ended by itself, -9: node1")

    storm = FakeStorm(end)
    kept, found = run(storm, tmp_path / "storm.json")
    assert not kept
    assert len(storm.asked) == found["total"]["broken_off"] == MAX_BROKEN
    assert found["total"]["strikes"] == 25 * MAX_BROKEN
    assert "-9" in found["shards"][0]["error"]


def test_violation_ends_the_storm(tmp_path: Path) -> None:
    storm = FakeStorm(lambda outcome: outcome.verdict.violations.append("cam: time went back"))
    kept, found = run(storm, tmp_path / "storm.json")
    assert not kept
    assert len(storm.asked) == found["total"]["violations"] == 1
