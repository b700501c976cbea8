"""Maps errors to status codes and JSON with one line of reason: `{"detail": "..."}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from streamcap.captions.hub import UnknownStreamError
from streamcap.captions.text import clean_text
from streamcap.errors import InputError, StreamcapError
from streamcap.redact import redact
from streamcap.streams.storage.caption_files import FilesLockedError
from streamcap.streams.stream_set import DuplicateStreamError, StreamRemovedError, TooManyStreamsError

_METHODS = ("DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT")  # HEAD goes with GET
_STATUS: dict[type[InputError], int] = {
    UnknownStreamError: 404,
    DuplicateStreamError: 409,
    StreamRemovedError: 409,
    FilesLockedError: 409,
    TooManyStreamsError: 503,
}
"""Every other InputError: 400."""
MAX_DETAIL_CHARACTERS = 1000
_log = logging.getLogger(__name__)


def answer(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error response: one line of at most MAX_DETAIL_CHARACTERS, secrets redacted, control characters removed."""
    return JSONResponse({"detail": clean_text(redact(_shortened(detail)))}, status, headers=dict(headers or {}))


def _shortened(detail: str) -> str:
    """`detail`, truncated before redaction, whose run time is quadratic in the length."""
    if len(detail) <= MAX_DETAIL_CHARACTERS:
        return detail
    # Cut at a space, so that a URL stays complete: redaction does not find half a password.
    return f"{detail[: MAX_DETAIL_CHARACTERS - 1].rpartition(' ')[0]}…"


def _methods(app: FastAPI, connection: HTTPConnection) -> list[str]:
    """The methods allowed on the path of `connection`."""
    scopes = {method: {**connection.scope, "method": method} for method in _METHODS}
    return [m for m, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in app.routes)]


def install(app: FastAPI) -> None:
    """Add handlers for every error that a user can cause, for HTTP and websocket handshakes."""

    async def wrong_input(_: HTTPConnection, error: Exception) -> Response:
        status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 400)
        return answer(status, str(error), {"Retry-After": "5"} if status == 503 else None)

    async def invalid(_: HTTPConnection, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type only
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return answer(400, f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}")
        if first["loc"] == ("body",):
            return answer(400, "the body must be a JSON object, sent with Content-Type: application/json")
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return answer(400, f"{where or 'body'}: {first['msg'].removeprefix('Value error, ')}")

    async def http_error(connection: HTTPConnection, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type only
        headers = dict(error.headers or {})
        if error.status_code == 405:
            # The framework lists the methods of the first matching route only; RFC 9110 requires all of them.
            headers["Allow"] = ", ".join(_methods(app, connection)) or headers.get("Allow", "")
        return answer(error.status_code, str(error.detail), headers)

    async def own_failure(_: HTTPConnection, error: Exception) -> Response:
        _log.error("request failed: %s", redact(error))
        return answer(503, str(error))

    app.add_exception_handler(InputError, wrong_input)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(StreamcapError, own_failure)
