"""The judge finds what it must; and a few strikes on a real cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.cluster.judge import Stored, Verdict, judge_client, judge_files, judge_log, recorded_finals
from testbed.programs import require_package, require_program


def final(seq: int, start: float, text: str = "a dog") -> dict[str, Any]:
    return {"type": "caption", "is_final": True, "seq": seq, "id": f"cam-{seq}", "start": start, "text": text}


def entry(term: int, *events: dict[str, Any], node: str = "a") -> Stored:
    return Stored("cam", term, node, 0.0, list(events))


def log_violations(*entries: Stored) -> list[str]:
    verdict = Verdict()
    judge_log(list(entries), "cam", verdict)
    return verdict.violations


def client_violations(messages: list[dict[str, Any]], *entries: Stored) -> list[str]:
    verdict = Verdict()
    judge_client(messages, list(entries), "cam", verdict)
    return verdict.violations


def test_judge_accepts_a_takeover() -> None:
    log = entry(1, final(1, 0.0)), entry(2, final(1001, 10.0), node="b")
    assert log_violations(*log) == []
    gap = {"type": "gap", "from": 2, "to": 1000}
    assert client_violations([final(1, 0.0), gap, final(1001, 10.0)], *log) == []


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ((entry(2, final(1, 0.0)), entry(1, final(2, 1.0))), "after a later one"),
        ((entry(1, final(1, 0.0)), entry(1, final(2, 1.0), node="b")), "two nodes"),
        ((entry(1, final(1, 0.0)), entry(1, final(1, 1.0))), "number was used twice"),
        ((entry(1, final(1, 5.0)), entry(1, final(2, 1.0))), "time went back"),
    ],
)
def test_judge_finds_a_fault_of_the_log(entries: tuple[Stored, ...], reason: str) -> None:
    assert any(reason in violation for violation in log_violations(*entries))


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([final(1, 0.0), final(3, 2.0)], "missing"),
        ([final(1, 0.0), final(1, 0.0)], "came twice"),
        ([final(1, 0.0), {"type": "gap", "from": 2, "to": 2}, final(3, 2.0)], "in a gap"),
        ([final(1, 0.0, "a cat")], "not in the log"),
        ([final(2, 1.0), final(3, 0.5)], "time went back"),
    ],
)
def test_judge_finds_a_fault_of_a_client(messages: list[dict[str, Any]], reason: str) -> None:
    log = entry(1, final(1, 0.0), final(2, 1.0), final(3, 2.0))
    assert any(reason in violation for violation in client_violations(messages, log))


@pytest.mark.parametrize(
    ("seqs", "reason"),
    [((1, 2, 3), ""), ((1, 2), ""), ((1, 2, 2), "twice"), ((1, 3), "not in the files"), ((2, 1), "differ")],
)
def test_judge_compares_files_with_the_log(tmp_path: Path, seqs: tuple[int, ...], reason: str) -> None:
    log = [entry(1, final(1, 0.0), final(2, 1.0), final(3, 2.0))]
    finals = [final(seq, float(seq)) for seq in seqs]
    (tmp_path / "cam.jsonl.000000000001").write_text(json.dumps(finals[0]) + "\n")
    (tmp_path / "cam.jsonl").write_text("".join(json.dumps(each) + "\n" for each in finals[1:]) + '{"type":')
    verdict = Verdict()
    judge_files(recorded_finals(tmp_path, "cam"), log, "cam", verdict)
    assert any(reason in violation for violation in verdict.violations) if reason else not verdict.violations


@pytest.mark.parametrize(
    ("other", "alone"),
    [
        (("node", "node1", 105.0), False),
        (("nats", "nats://n1", 92.0), False),
        (("pause", "node1", 65.0), False),
        (("node", "node1", 111.0), True),
        (("node", "recorder0", 100.5), True),
        (("pause", "node1", 59.0), True),
    ],
)
def test_recovery_counts_apart_if_others_were_struck(other: tuple[str, str, float], alone: bool) -> None:
    pytest.importorskip("nats")
    from tests.cluster.storm import Outcome, measure

    stored = [Stored("cam", 1, "node0-a", 99.0, [final(1, 0.0)]), Stored("cam", 2, "node1-b", 104.0, [final(2, 5.0)])]
    outcome = Outcome()
    measure([("node", "node0", 100.0), other], stored, outcome)
    assert outcome.recoveries_alone == ([4.0] if alone else [])
    assert outcome.recoveries_others[:1] == ([] if alone else [4.0])


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_strikes_lose_and_double_nothing(tmp_path: Path) -> None:
    require_program("nats-server")
    require_package("nats")
    from tests.cluster.storm import Outcome, run_storm

    early: list[Outcome] = []
    outcome = run_storm(3, tmp_path, nodes=2, recorders=1, streams=1, calm=3.0, judge_every=2, report=early.append)
    assert outcome.verdict.violations == []
    assert outcome.is_complete and [each.is_complete for each in early] == [False]
    assert sum(early[0].strikes.values()) == 2
    assert outcome.verdict.received > 0 and outcome.verdict.recorded > 0
