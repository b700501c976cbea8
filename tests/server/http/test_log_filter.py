from __future__ import annotations

import logging
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.server.http.log_filter import REPEAT_SECONDS, LogFilter

TOKEN = 'see-4711+/"%'


def record(message: str, *args: object, created: float = 0.0, level: int = logging.WARNING) -> logging.LogRecord:
    log_record = logging.LogRecord("uvicorn.error", level, "x", 1, message, args, None)
    log_record.created = created
    return log_record


@pytest.mark.parametrize(
    "line",
    [
        'GET /streams?token={} HTTP/1.1" 200',
        'GET /streams?%74oken={} HTTP/1.1" 200',
        "GET /streams?stream=door&TOKEN={}&since=4",
        "GET /streams?x={}",
        "GET /streams?{}",
        "GET /streams?stream={}",
        "GET /streams/{}/x",
        "GET /streams%3Ftoken={}",
        "< Authorization: Bearer {}",
    ],
)
def test_tokens_are_masked_in_every_encoding(line: str) -> None:
    kept = LogFilter({TOKEN, "other"})
    every_byte = "".join(f"%{byte:02x}" for byte in TOKEN.encode())
    for written in (TOKEN, quote(TOKEN), quote_plus(TOKEN), quote(TOKEN, safe=""), every_byte):
        masked = kept.masked(line.format(written))
        assert written not in masked and "see-4711" not in masked
        assert masked.startswith(line[:3])


def test_harmless_parameters_are_printed() -> None:
    line = 'GET /captions?stream=door&since=4&interim=0&token=*** HTTP/1.1" 200'
    assert LogFilter().masked(line) == line.replace("token=***", "***")


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_line_with_a_token_is_masked(before: str, after: str) -> None:
    assert "s3cret-token" not in LogFilter({"s3cret-token"}).masked(f"{before}s3cret-token{after}")


def test_equal_warnings_are_printed_once_a_minute() -> None:
    kept = LogFilter()
    printed = [
        kept.filter(record("Invalid HTTP request %s", "received", created=at)) for at in (0.0, 1.0, REPEAT_SECONDS + 2)
    ]
    assert printed == [True, False, True]
    assert [kept.filter(record("x", level=logging.INFO)) for _ in range(2)] == [True, True]


def test_invalid_utf8_of_a_client_is_a_warning() -> None:
    try:
        b"\xfd".decode()
    except UnicodeDecodeError as error:
        reason = (type(error), error, error.__traceback__)
    record = logging.LogRecord("uvicorn.error", logging.ERROR, __file__, 1, "Invalid UTF-8 sequence", None, reason)
    assert LogFilter().filter(record)
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
