"""Checks the messages of all clients and all files against each other, by the public contract only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_CUE = re.compile(r"(\d+):(\d\d):(\d\d)[.,](\d{3}) --> (\d+):(\d\d):(\d\d)[.,](\d{3})\n((?:.+\n?)+)")


@dataclass
class Verdict:
    violations: list[str] = field(default_factory=list)
    finals: int = 0
    events: int = 0
    gaps: int = 0
    finals_in_gaps: int = 0
    """In the file, but not sent: the disk hung, or the file was rotated before the next run."""


def read_finals(paths: Iterable[Path], verdict: Verdict) -> dict[int, dict[str, Any]]:
    """The finals of all JSONL files of a stream, by number."""
    finals: dict[int, dict[str, Any]] = {}
    ids: set[str] = set()
    for path in paths:
        for line in path.read_bytes().splitlines():
            try:
                message = json.loads(line)
            except ValueError:
                verdict.violations.append(f"{path.name}: a broken line {line[:60]!r}")
                continue
            if message["seq"] in finals or message["id"] in ids:
                verdict.violations.append(f"{path.name}: seq {message['seq']} or id {message['id']} is used twice")
            finals[message["seq"]] = message
            ids.add(message["id"])
    verdict.finals += len(finals)
    return finals


def judge_client(
    messages: Sequence[tuple[int, dict[str, Any]]],
    finals: dict[int, dict[str, Any]],
    verdict: Verdict,
    *,
    may_miss: bool,
) -> dict[int, dict[str, Any]]:
    """Check the messages of one client over all runs. Returns its events by number.

    may_miss: finals of the files may lie in gaps: the disk hung, or files were rotated away.
    """
    events: dict[int, dict[str, Any]] = {}
    gone: set[int] = set()
    final_ids: set[str] = set()
    expected = 0
    newest_start = newest_end = end_of_earlier_runs = 0.0
    last_run = 0
    complain = verdict.violations.append
    for run, message in messages:
        kind = message["type"]
        if run != last_run:
            end_of_earlier_runs, last_run = newest_end, run
        if kind == "hello":
            continue
        first, last = (message["from"], message["to"]) if kind == "gap" else (message["seq"], message["seq"])
        # Without `since`, a client receives the current final and its newest `extend` only.
        is_greeting = kind == "extend" and len(events) == 2 and message["id"] in final_ids
        if expected and first != expected and not is_greeting:
            complain(f"run {run}: after {expected - 1} came {first}: {json.dumps(message)[:200]}")
        expected = last + 1
        if kind == "gap":
            verdict.gaps += 1
            gone.update(range(first, last + 1))
            continue
        events[first] = message
        verdict.events += 1
        if kind == "caption":
            if message["id"] in final_ids:
                complain(f"run {run}: {message['id']} came again after its final")
            if message["is_final"]:
                final_ids.add(message["id"])
                if finals.get(first) != message:
                    complain(f"run {run}: final {first} is not in the file as it was sent")
            is_replayed = first in finals and message["start"] < end_of_earlier_runs
            if not is_replayed and message["start"] < max(newest_start, end_of_earlier_runs) - 0.0015:
                complain(f"run {run}: time went back at {first}: {message['start']} after {newest_start}, {newest_end}")
            newest_start = max(newest_start, message["start"])
            newest_end = max(newest_end, message["end"])
        elif kind == "extend":
            if message["id"] not in final_ids and events and min(events) < first - 1 and not gone:
                complain(f"run {run}: {first} extends {message['id']}, which was never there")
            newest_end = max(newest_end, message["end"])
    both = finals.keys() & events.keys()
    others = [seq for seq in both if events[seq] != finals[seq] and events[seq]["type"] != "status"]
    if others:
        complain(f"finals {others[:5]} of the file were sent as other events")
    missed = sorted(finals.keys() & gone)
    verdict.finals_in_gaps += len(missed)
    if missed and not may_miss:
        complain(f"finals {missed[:5]} are in the file, and a gap to a client")
    lost = [seq for seq in finals if min(events, default=0) < seq < expected and seq not in events and seq not in gone]
    if lost:
        complain(f"finals {lost[:5]} were never sent")
    return events


def judge_clients(clients: Sequence[dict[int, dict[str, Any]]], verdict: Verdict) -> None:
    """Check that no two clients received different events with one number."""
    seen: dict[int, dict[str, Any]] = {}
    for events in clients:
        for seq, message in events.items():
            # New subscribers receive the status with the number of another event.
            if seen.setdefault(seq, message) != message and message["type"] == seen[seq]["type"] != "status":
                verdict.violations.append(f"seq {seq} is {json.dumps(message)[:150]} and {json.dumps(seen[seq])[:150]}")


def judge_subtitles(
    directory: Path, stream: str, finals: dict[int, dict[str, Any]], verdict: Verdict, *, all_of_them: bool
) -> None:
    """SRT and VTT after a clean end: alike, in order, and of nothing but finals; `all_of_them` where nothing was
    rotated away."""
    srt, vtt = (read_cues(directory / f"{stream}.{kind}") for kind in ("srt", "vtt"))
    complain = verdict.violations.append
    if srt != vtt:
        complain(f"SRT has {len(srt)} cues, VTT {len(vtt)}, and they differ")
    texts = {final["text"] for final in finals.values()}
    end = 0
    for start_ms, end_ms, text in srt:
        if start_ms < end or end_ms <= start_ms:
            complain(f"cue at {start_ms} ms begins before {end} ms or ends before it begins")
        end = end_ms
        if text not in texts:
            complain(f"cue at {start_ms} ms says what no final says: {text!r}")
    if all_of_them:
        for final in finals.values():
            start, shown = round(final["start"] * 1000), " ".join(final["text"].split())
            # A final without text ends an interim; nothing is shown.
            if shown and not any(
                begin <= start + 1 and start - 1 < stop and text == shown for begin, stop, text in srt
            ):
                complain(f"final {final['id']} at {start} ms is in no cue: {shown!r}")


def read_cues(path: Path) -> list[tuple[int, int, str]]:
    if not path.exists():
        return []
    cues = []
    for match in _CUE.finditer(path.read_text("utf-8")):
        hours, minutes, seconds, ms, *rest = match.groups()
        begin = _ms(hours, minutes, seconds, ms)
        cues.append((begin, _ms(*rest[:4]), " ".join(str(rest[4]).split())))
    return cues


def _ms(hours: str, minutes: str, seconds: str, ms: str) -> int:
    return 3_600_000 * int(hours) + 60_000 * int(minutes) + 1000 * int(seconds) + int(ms)
