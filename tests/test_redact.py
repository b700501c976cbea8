from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamcap.redact import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://admin:hunter2@10.0.0.5:554/live", "rtsp://admin:***@10.0.0.5:554/live"),
        ("rtsp://admin:p@ss:w@rd@cam/live", "rtsp://admin:***@cam/live"),
        ("rtsp://admin@cam/live", "rtsp://admin:***@cam/live"),
        ("http://cam/x?token=abc&size=3", "http://cam/x?token=***&size=3"),
        ("srt://cam:9000?mode=caller&passphrase=secret", "srt://cam:9000?mode=caller&passphrase=***"),
        ("cannot open 'rtsp://a:b@c/d': 401", "cannot open 'rtsp://a:***@c/d': 401"),
        ("a dog at 5:30 @ home", "a dog at 5:30 @ home"),
        ("scenes:?seed=3", "scenes:?seed=3"),
        ("rtsp://admin:a/b#c?d@cam/live lost", "rtsp://admin:***@cam/live lost"),
        ("http://cam:8080/@me/x", "http://cam:8080/@me/x"),
        ("http://[::1]:8080/@me/x", "http://[::1]:8080/@me/x"),
        ("http://cam:80 and mail me@host", "http://cam:80 and mail me@host"),
    ],
)
def test_secrets_are_redacted_and_rest_is_kept(text: str, shown: str) -> None:
    assert redact(text) == shown


PASSWORD = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6)


@given(PASSWORD)
def test_no_password_passes(password: str) -> None:
    secret = f"§{password}§"
    assert secret not in redact(f"lost rtsp://admin:{secret}@cam/live: timed out")
