"""A short storm under each condition (`make chaos` runs the long one), and tests of the judge itself."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from streamcap.captions.event import Extend, encode
from tests.captions.fakes import caption
from tests.chaos.judge import Verdict, judge_client, judge_clients, judge_subtitles, read_finals
from tests.chaos.storm import WEATHERS, run_storm


@pytest.mark.slow
@pytest.mark.parametrize("weather", WEATHERS)
def test_kills_break_no_promise(weather: str, tmp_path: Path) -> None:
    verdict = run_storm(weather, 1, tmp_path, max_alive=2.0)
    assert verdict.violations == []
    assert verdict.events > 0


def feed() -> list[dict[str, Any]]:
    """Two finals, the second of a later run."""
    payloads = [caption(number=1, start=1.0), Extend("door", "door-1", 3.0), caption(number=2, start=3.5)]
    return [json.loads(encode(seq, payload).text) for seq, payload in enumerate(payloads, 1)]


def judge(messages: list[dict[str, Any]], filed: list[dict[str, Any]], path: Path) -> list[str]:
    path.write_text("".join(json.dumps(message) + "\n" for message in filed))
    verdict = Verdict()
    finals = read_finals([path], verdict)
    runs = [(0, message) for message in messages[:2]] + [(1, message) for message in messages[2:]]
    judge_clients([judge_client(runs, finals, verdict, may_miss=False)], verdict)
    return verdict.violations


def test_judge_passes_what_is_whole(tmp_path: Path) -> None:
    messages = feed()
    assert judge(messages, [messages[0], messages[2]], tmp_path / "f") == []


@pytest.mark.parametrize("fault", ["unfiled", "lost", "doubled", "revised", "id again", "time back", "number left out"])
def test_judge_sees_what_is_broken(tmp_path: Path, fault: str) -> None:
    messages = feed()
    filed = deepcopy([messages[0], messages[2]])
    match fault:
        case "unfiled":
            filed.pop()
        case "lost":
            filed.insert(1, {**messages[0], "seq": 2, "id": "door-7"})
        case "doubled":
            filed.append({**filed[1], "seq": 9})
        case "revised":
            filed[1]["text"] = "another"
        case "id again":
            messages[2]["id"] = filed[1]["id"] = "door-1"
        case "time back":
            messages[2]["start"] = filed[1]["start"] = 2.9
            messages[2]["is_final"] = False
            filed.pop()
        case "number left out":
            messages[2]["seq"] = filed[1]["seq"] = 4
    assert judge(messages, filed, tmp_path / "f")


@pytest.mark.parametrize(("text", "cues"), [("", 0), ("a dog", 1)])
def test_final_with_text_needs_a_cue(text: str, cues: int, tmp_path: Path) -> None:
    verdict = Verdict()
    finals = {1: {"id": "door-1", "start": 1.0, "text": text}}
    judge_subtitles(tmp_path, "door", finals, verdict, all_of_them=True)
    assert len(verdict.violations) == cues
