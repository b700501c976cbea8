from __future__ import annotations

import numpy as np
import pytest

from streamcap.engine.gate import Gate, GateOptions, content


def unit(*values: float) -> np.ndarray:
    row = np.array(values, np.float32)
    return row / np.linalg.norm(row)


A, NEAR_A, B = unit(1, 0, 0), unit(1, 0.05, 0), unit(0, 1, 0)


@pytest.fixture
def gate() -> Gate:
    gate = Gate(GateOptions(threshold=0.02, refresh=30))
    gate.settle("door", 0, 10.0, A, "a man opens a door")
    return gate


def test_the_first_picture_of_a_stream_is_always_news(gate: Gate) -> None:
    assert gate.is_news(gate.distance("garden", 0, 0.0, A))


def test_a_still_picture_is_still_until_refresh_or_another_epoch(gate: Gate) -> None:
    assert gate.is_still(gate.distance("door", 0, 39.9, NEAR_A))
    assert not gate.is_still(gate.distance("door", 0, 40.0, NEAR_A))
    assert not gate.is_still(gate.distance("door", 1, 11.0, NEAR_A))


def test_drift_is_measured_from_the_final_not_from_the_last_look(gate: Gate) -> None:
    steps = [unit(1, 0.04 * i, 0) for i in range(1, 12)]
    still = [gate.is_still(gate.distance("door", 0, 11.0, step)) for step in steps]
    assert still[0] and not still[-1]


def test_the_same_words_are_no_news_but_a_refresh_publishes_them(gate: Gate) -> None:
    moved = gate.distance("door", 0, 11.0, B)
    assert gate.repeats("door", moved, "The man opens the door")
    assert not gate.repeats("door", moved, "a woman opens a door")
    assert not gate.repeats("door", gate.distance("door", 0, 99.0, A), "a man opens a door")


def test_an_arrival_is_never_called_the_same() -> None:
    assert content("a red car drives on a road") != content("a blue car drives on a road")
    assert content("a dog runs on the grass") != content("two dogs run on the grass")


@pytest.mark.parametrize("threshold", [-0.1, 2.0])
def test_senseless_thresholds_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="cosine distance"):
        GateOptions(threshold=threshold)
