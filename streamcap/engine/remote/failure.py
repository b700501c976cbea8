"""`RemoteError`: why a remote model gave no caption, in one redacted line, and how long to leave it alone. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from streamcap.errors import StreamcapError
from streamcap.redact import HIDDEN, redact

LASTING_PAUSE_S = 60.0
"""After an error that only a person can mend: a wrong key or model."""
MAX_RETRY_AFTER_S = 600.0
_MAX_MESSAGE = 160
# Providers quote the key in their errors, partly masked.
_KEY_LIKE = re.compile(r"\b(?:sk|gsk|hf|pk)[-_][A-Za-z0-9*_.…-]{4,}|[A-Za-z0-9_-]*\*{3,}[A-Za-z0-9_-]*")
_ADVICE = {
    400: "the server refuses the request",
    401: "the key is wrong or missing; set STREAMCAP_MODEL_KEY or --model-key-file",
    403: "the key may not use this model",
    404: "no such model or path; check --model and --model-url",
    405: "no chat completions at this path; check --model-url",
    413: "the request is too large; use a smaller image_size or fewer frames",
    422: "the server refuses the request",
    429: "too many requests",
}
_LASTING = frozenset({400, 401, 403, 404, 405, 413, 422})


class RemoteError(StreamcapError):
    """A request without a usable answer.

    Parameters:
        pause: seconds for which to send no further request; None: a short pause that grows with every failure.
    """

    def __init__(self, reason: str, *, pause: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pause = pause


def of_status(
    status: int, headers: Mapping[str, str], content: bytes, *, key: str | None, now: datetime | None = None
) -> RemoteError:
    """The failure for an HTTP response with another status than 200."""
    detail = error_message(content, headers.get("content-type", ""))
    advice = _ADVICE.get(status, "the server failed" if status >= 500 else "unexpected answer")
    if 300 <= status < 400:
        target = hide_keys(one_line(headers.get("location", "nowhere")), key)
        detail, advice = "", f"the server redirects to {target}; use that as --model-url"
    pause = LASTING_PAUSE_S if status in _LASTING or 300 <= status < 400 else None
    if status in (429, 503) and (wait := retry_after(headers.get("retry-after", ""), now)) is not None:
        pause = wait
    return RemoteError(f"{status}: {advice}{f' ({hide_keys(detail, key)})' if detail else ''}", pause=pause)


def retry_after(value: str, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, in seconds or as an HTTP date; None if it is neither."""
    value = value.strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return min(float(value), MAX_RETRY_AFTER_S)
    try:
        then = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return min(max(0.0, (then - (now or datetime.now(UTC))).total_seconds()), MAX_RETRY_AFTER_S)


def error_message(content: bytes, content_type: str) -> str:
    """What a server says about an error, on one line; empty for an error page of HTML and the like."""
    text = content.decode("utf-8", "replace")
    try:
        return one_line(message_of(json.loads(text)))
    except ValueError:
        return "" if "html" in content_type.lower() or text.lstrip().startswith("<") else one_line(text)


def message_of(error: object) -> str:
    """The message in a JSON error of OpenAI, Ollama, vLLM, llama.cpp or FastAPI."""
    for _ in range(4):
        if not isinstance(error, dict):
            break
        error = next((error[name] for name in ("error", "message", "detail", "msg") if error.get(name)), "")
    return error if isinstance(error, str) else "" if error is None else json.dumps(error)


def one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_MESSAGE else line[: _MAX_MESSAGE - 1].rstrip() + "…"


def hide_keys(text: str, key: str | None) -> str:
    """`text` without URLs' secrets, without `key`, and without anything that looks like a key."""
    if key:
        text = text.replace(key, HIDDEN)
    return _KEY_LIKE.sub(HIDDEN, redact(text))
