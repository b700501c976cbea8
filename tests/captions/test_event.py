"""The events are public: other programs depend on them."""

from __future__ import annotations

import json

from streamcap.captions.event import (
    Extend,
    Status,
    StreamState,
    StreamSummary,
    encode,
    gap_text,
    hello_text,
)
from tests.captions.fakes import caption


def test_caption_event_json() -> None:
    message = json.loads(encode(41, caption()).text)
    assert message == {
        "type": "caption",
        "stream": "door",
        "epoch": 0,
        "seq": 41,
        "id": "door-37",
        "revision": 2,
        "is_final": True,
        "start": 12.48,
        "end": 13.48,
        "text": "a man opens a door",
        "logprob": -0.41,
        "confidence": 0.83,
        "model": "mini",
        "captured_at": "2025-11-20T23:46:01.120Z",
        "captured_at_source": "rtcp",
        "latency_ms": {"ingest": 3.1, "queue": 0.4, "encode": 2.2, "decode": 4.0, "total": 9.7},
    }


def test_other_event_types_json() -> None:
    assert json.loads(encode(1, Status("door", StreamState.STALLED, "no frame for 2.0 s")).text) == {
        "type": "status",
        "stream": "door",
        "seq": 1,
        "state": "stalled",
        "reason": "no frame for 2.0 s",
    }
    assert json.loads(encode(2, Extend("door", "door-37", 14.4801)).text) == {
        "type": "extend",
        "stream": "door",
        "seq": 2,
        "id": "door-37",
        "end": 14.48,
    }
    assert json.loads(gap_text("door", 3, 9)) == {"type": "gap", "stream": "door", "from": 3, "to": 9}
    hello = json.loads(hello_text([StreamSummary("door", StreamState.LIVE, 3, 41)], 1_763_682_361.12))
    assert hello["protocol"] == 1
    assert hello["oldest_seq"] == 3
    assert hello["server_time"] == "2025-11-20T23:46:01.120Z"
    assert hello["streams"] == [{"name": "door", "state": "live", "oldest_seq": 3, "last_seq": 41}]


def test_text_stays_readable_utf8() -> None:
    assert "ein Mädchen läuft" in encode(1, caption("ein Mädchen läuft")).text
