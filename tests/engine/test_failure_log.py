from __future__ import annotations

import pytest

from streamcap.engine.failure_log import INTERVAL_SECONDS, MAX_KINDS, FailureLog


def failure(kind: type[Exception], message: str) -> Exception:
    try:
        raise kind(message)
    except kind as error:
        return error


def test_first_has_a_traceback_then_a_count(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    failures = FailureLog(lambda: now)
    for number in range(10):
        failures.report(failure(RuntimeError, f"frame {number}"), "stream door")
    failures.report(failure(ValueError, "another kind"), "stream door")
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    now = INTERVAL_SECONDS
    failures.report(failure(RuntimeError, "frame 10\nat length"), "stream yard")
    summary = "the model failed 10 more times, last on a frame of stream yard: RuntimeError: frame 10"
    assert caplog.messages[2:] == [summary]
    failures.report(failure(RuntimeError, "frame 11"), "stream yard")
    assert len(caplog.records) == 3


def test_kinds_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog(lambda: 0.0)
    for number in range(3 * MAX_KINDS):
        failures.report(failure(type(f"Error{number}", (Exception,), {}), "no"), "stream door")
    assert len(caplog.records) == MAX_KINDS + 1
