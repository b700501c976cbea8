from __future__ import annotations

import json
import logging
import sys

from streamcap.cli.service.log_format import JsonFormatter, TextFormatter


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("streamcap.streams.stream", logging.WARNING, __file__, 1, message, None, None)
    made.created = 1_795_000_000.25
    made.__dict__.update(extra)
    return made


def test_json_line_has_time_level_message_and_stream() -> None:
    line = JsonFormatter().format(record("stream door is stalled: \u2028 caf\u00e9\nnext", stream="door"))
    assert line.isascii() and "\n" not in line
    assert json.loads(line) == {
        "time": "2026-11-18T11:06:40.250Z",
        "level": "warning",
        "message": "stream door is stalled: \u2028 caf\u00e9\nnext",
        "logger": "streamcap.streams.stream",
        "stream": "door",
    }


def test_json_line_has_redacted_traceback() -> None:
    try:
        raise OSError("at rtsp://admin:hunter2@cam/live")
    except OSError:
        made = record("rtsp://admin:hunter2@cam failed", exc_info=sys.exc_info())
    line = JsonFormatter().format(made)
    assert "hunter2" not in line
    assert json.loads(line)["exception"].endswith("OSError: at rtsp://admin:***@cam/live")
    assert "stream" not in json.loads(line)


def test_text_line_has_date_and_no_module_path() -> None:
    line = TextFormatter(debug=False).format(record("stream door is live"))
    assert line.startswith("2026-11-18 ") and line.endswith(" WARNING stream door is live")
    assert "streamcap.streams" not in line
