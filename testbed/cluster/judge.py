"""Judges the logs and what clients received, with a reader of its own: nothing here imports streamcap."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy


@dataclass
class Stored:
    """One message of the logs."""

    stream: str
    term: int
    node: str
    at: float
    """Wall clock of the server."""
    events: list[dict[str, Any]]


@dataclass
class Verdict:
    finals: int = 0
    received: int = 0
    recorded: int = 0
    gaps: int = 0
    violations: list[str] = field(default_factory=list)


async def read_logs(urls: list[str]) -> list[Stored]:
    """All messages of all logs, in the order in which JetStream stored them."""
    client = await nats.connect(urls)
    try:
        jetstream = client.jetstream()
        total = (await jetstream.stream_info("SC_CAPTIONS")).state.messages
        config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.NONE, inactive_threshold=30)
        info = await jetstream.add_consumer("SC_CAPTIONS", config)
        subscription = await jetstream.pull_subscribe_bind(info.name, "SC_CAPTIONS")
        stored: list[Stored] = []
        while len(stored) < total:
            for message in await subscription.fetch(min(500, total - len(stored)), timeout=10):
                headers = message.headers or {}
                stored.append(
                    Stored(
                        message.subject.split(".")[2],
                        int(headers["Streamcap"].split(" ")[0]),
                        headers["Streamcap"].split(" ", 7)[7],
                        message.metadata.timestamp.timestamp(),
                        [json.loads(line) for line in message.data.decode().splitlines()],
                    )
                )
        return stored
    finally:
        await client.close()


def owners(stored: Iterable[Stored]) -> dict[str, str]:
    """The name of the node that wrote last, by stream."""
    return {entry.stream: entry.node.rpartition("-")[0] for entry in stored}


def finals_of(stored: Iterable[Stored], stream: str) -> list[dict[str, Any]]:
    events = [event for entry in stored if entry.stream == stream for event in entry.events]
    return [event for event in events if event["type"] == "caption" and event["is_final"]]


def judge_log(stored: list[Stored], stream: str, verdict: Verdict) -> None:
    """Numbers and ids are used once and rise, time never goes back, and nobody writes after a later owner."""
    entries = [entry for entry in stored if entry.stream == stream]
    terms = [entry.term for entry in entries]
    if terms != sorted(terms):
        verdict.violations.append(f"{stream}: a former owner wrote after a later one")
    if len({(entry.term, entry.node) for entry in entries}) != len(set(terms)):
        verdict.violations.append(f"{stream}: two nodes wrote in one term")
    seqs = [event["seq"] for entry in entries for event in entry.events]
    if any(later <= earlier for earlier, later in itertools.pairwise(seqs)):
        verdict.violations.append(f"{stream}: a number was used twice, or went back")
    finals = finals_of(stored, stream)
    verdict.finals += len(finals)
    if len({final["id"] for final in finals}) != len(finals):
        verdict.violations.append(f"{stream}: an id was used twice")
    starts = [final["start"] for final in finals]
    if starts != sorted(starts):
        verdict.violations.append(f"{stream}: time went back")


def judge_client(messages: list[dict[str, Any]], stored: list[Stored], stream: str, verdict: Verdict) -> None:
    """A client that resumed has each stored final of its time exactly once, and the same number for it."""
    finals = {final["seq"]: final for final in finals_of(stored, stream)}
    seen: dict[int, dict[str, Any]] = {}
    start, newest = 0.0, 0
    for message in messages:
        if message["type"] == "gap":
            verdict.gaps += 1
            lost = [seq for seq in finals if message["from"] <= seq <= message["to"]]
            if lost:
                verdict.violations.append(f"{stream}: finals {lost[:5]} were in a gap")
            newest = max(newest, message["to"])
            continue
        if "seq" not in message:
            continue
        if message["seq"] <= newest:
            verdict.violations.append(f"{stream}: number {message['seq']} came after {newest}")
        newest = max(newest, message["seq"])
        if message["type"] != "caption":
            continue
        if message["start"] < start:
            verdict.violations.append(f"{stream}: time went back to {message['start']} at {message['seq']}")
        start = message["start"]
        if message["is_final"]:
            if message["seq"] in seen:
                verdict.violations.append(f"{stream}: final {message['seq']} came twice")
            seen[message["seq"]] = message
            if finals.get(message["seq"], {}).get("text") != message["text"]:
                verdict.violations.append(f"{stream}: final {message['seq']} is not in the log")
    verdict.received += len(seen)
    if seen:
        first, last = min(seen), max(seen)
        missing = [seq for seq in finals if first <= seq <= last and seq not in seen]
        if missing:
            verdict.violations.append(f"{stream}: finals {missing[:5]} are missing")


def recorded_finals(out: Path, stream: str) -> list[dict[str, Any]]:
    """All lines of a stream's JSONL files, the older parts first; a line that is being written is not one yet."""
    parts: list[Path] | None = None
    while parts != (now := sorted(out.glob(f"{stream}.jsonl.*"))):  # else a file was rotated meanwhile
        parts, lines = now, list[str]()
        for path in (*parts, out / f"{stream}.jsonl"):
            with contextlib.suppress(FileNotFoundError):  # not written yet
                lines += path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n") and line.strip()]


def judge_files(finals: list[dict[str, Any]], stored: list[Stored], stream: str, verdict: Verdict) -> None:
    """The files have the finals of the log in their order, each once, from the first to the newest recorded."""
    recorded = [(final["seq"], final["text"]) for final in finals]
    expected = [(final["seq"], final["text"]) for final in finals_of(stored, stream)]
    verdict.recorded += len(recorded)
    if len(set(recorded)) != len(recorded):
        verdict.violations.append(f"{stream}: a final is in the files twice")
    missing = set(expected[: len(recorded)]) - set(recorded)
    if missing:
        verdict.violations.append(f"{stream}: finals {sorted(missing)[:5]} are not in the files")
    if recorded != expected[: len(recorded)]:
        verdict.violations.append(f"{stream}: the files differ from the log")


def percentile(values: list[float], share: float) -> float:
    """By the nearest rank; 0 without values. share: 0 to 1."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0
