from __future__ import annotations

from datetime import UTC, datetime

import pytest

from streamcap.engine.remote.failure import LASTING_PAUSE_S, MAX_RETRY_AFTER_S, of_status, retry_after

NOW = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)
KEY = "my-very-own-key"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        (" 0.5 ", 0.5),
        ("Fri, 27 Nov 2026 12:00:30 GMT", 30),
        ("Fri, 27 Nov 2026 11:00:00 GMT", 0),
        ("86400", MAX_RETRY_AFTER_S),
        ("soon", None),
        ("", None),
        ("-1", None),
    ],
)
def test_retry_after_in_seconds_and_as_date(value: str, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "content", "reason", "pause"),
    [
        (401, b'{"error":{"message":"Incorrect API key"}}', "401: the key is wrong or missing", LASTING_PAUSE_S),
        (
            404,
            b'{"error":{"message":"model \'x\' not found"}}',
            "404: no such model .*model 'x' not found",
            LASTING_PAUSE_S,
        ),
        (404, b"404 page not found", "404: no such model or path; check --model and --model-url", LASTING_PAUSE_S),
        (422, b'{"detail":[{"msg":"bad"}]}', "422: the server refuses the request", LASTING_PAUSE_S),
        (429, b'{"error":{"message":"slow down"}}', r"429: too many requests \(slow down\)", 7.0),
        (503, b"<html><body>nginx</body></html>", "503: the server failed$", 7.0),
        (500, b'{"error":{"message":"CUDA out of memory"}}', r"500: the server failed \(CUDA out of memory\)", None),
        (302, b"", "302: the server redirects to https://other.example/v1; use that", LASTING_PAUSE_S),
    ],
)
def test_status_becomes_a_reason_and_a_pause(status: int, content: bytes, reason: str, pause: float | None) -> None:
    headers = {"retry-after": "7", "location": "https://other.example/v1"}
    failure = of_status(status, headers, content, key=KEY)
    assert failure.pause == pause
    with pytest.raises(type(failure), match=reason):
        raise failure


@pytest.mark.parametrize(
    "quoted",
    [
        f"key {KEY} is unknown",
        "Incorrect API key provided: sk-ab12****************wxyz.",
        "see http://user:my-password@example.org/x?api_key=abcdef123",
    ],
)
def test_keys_that_a_server_quotes_are_hidden(quoted: str) -> None:
    reason = of_status(401, {}, f'{{"error":{{"message":"{quoted}"}}}}'.encode(), key=KEY).reason
    for secret in (KEY, "sk-ab12", "wxyz", "my-password", "abcdef123"):
        assert secret not in reason
    assert "***" in reason


def test_long_message_is_cut() -> None:
    assert len(of_status(500, {}, b"x" * 10_000, key=None).reason) < 220
