"""The log of `streamcap serve`: one line, or one JSON object, for each message, without secrets."""

from __future__ import annotations

import json
import logging
from typing import Literal

from streamcap.captions.caption import utc_text
from streamcap.redact import redact

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
_LIBRARIES = ("libav", "aioice", "aiortc", "asyncio", "httpx", "uvicorn", "websockets")


class TextFormatter(logging.Formatter):
    """Redacts secrets, also in tracebacks: libav's exceptions contain the URL with its password."""

    def __init__(self, *, debug: bool) -> None:
        name = " %(name)s:" if debug else ""
        super().__init__(f"%(asctime)s %(levelname)-7s{name} %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (UTC), `level`, `message`, `logger`; `stream`, `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": utc_text(record.created),
            "level": record.levelname.lower(),
            "message": redact(record.getMessage()),
            "logger": record.name,
        }
        stream = getattr(record, "stream", None)
        if isinstance(stream, str):
            entry["stream"] = stream
        if record.exc_info:
            entry["exception"] = redact(self.formatException(record.exc_info))
        # ASCII, so that no reader sees another line break.
        return json.dumps(entry)


def configure_logging(level: LogLevel, format_: LogFormat) -> None:
    """Log to standard error."""
    debug = level == "debug"
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter(debug=debug))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(capture=True)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.INFO if debug else max(logging.WARNING, logging.root.level))
