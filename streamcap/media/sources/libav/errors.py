"""Error messages for errors of libav: one redacted line that says what, where and what to do."""

from __future__ import annotations

import errno

import av

from streamcap.media.containers import ACCEPTED, why_unreadable
from streamcap.media.sources.address import HostGuard
from streamcap.media.sources.base import SourceRefused
from streamcap.media.sources.diagnosis import connection_fault, rtsp_challenges, wrong_protocol
from streamcap.media.sources.url import file_path, scheme_of
from streamcap.redact import redact

HUNG_UP = (errno.EIO, errno.EPIPE, errno.ECONNRESET)
"""Errors of libav for a connection that the other side closed."""
_NO_ANSWER = (errno.ETIMEDOUT, errno.EAGAIN)
_DIAGNOSIS_SECONDS = 2.0
_DATAGRAMS = ("udp:", "rtp:", "srt:")
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EADDRNOTAVAIL)


def open_error(
    error: av.FFmpegError, url: str, guard: HostGuard, *, network: bool, waited: float, open_timeout: float
) -> SourceRefused:
    """Why `url` could not be opened: from the error of libav where it is clear, else from a diagnosis of the host.

    May connect to the host for a few seconds. waited: seconds that opening took, because libav reports some timeouts
    as invalid data.
    """
    where = redact(url)
    if isinstance(error, av.error.HTTPUnauthorizedError):
        return SourceRefused(f"{where}: {_login_reason(url, guard)}", retry=False)
    timed_out = isinstance(error, av.error.ExitError | TimeoutError) or error.errno in _NO_ANSWER
    timed_out = timed_out or waited >= open_timeout
    if network and (timed_out or error.errno in HUNG_UP):
        timeout = min(_DIAGNOSIS_SECONDS, open_timeout)
        fault = connection_fault(url, guard, timeout=timeout) or wrong_protocol(url, guard, timeout=timeout)
        only_late = fault is None and timed_out
        if only_late:
            what = "" if where.startswith(_DATAGRAMS) else "it takes connections, but "
            fault = f"{what}no video that could be opened came within {open_timeout:g} s"
        fault = fault or "it closed the connection before any video came"
        return SourceRefused(f"{where}: {fault}", retry=True, timed_out=only_late)
    if isinstance(error, av.error.HTTPBadRequestError):
        other = wrong_protocol(url, guard, timeout=_DIAGNOSIS_SECONDS)
        if other is not None:
            return SourceRefused(f"{where}: {other}", retry=True)
    for kind, reason, retry in _REASONS:
        if isinstance(error, kind):
            return SourceRefused(f"{where}: {reason}", retry=retry and network)
    if network and (other := wrong_protocol(url, guard, timeout=_DIAGNOSIS_SECONDS)) is not None:
        return SourceRefused(f"{where}: {other}", retry=True)
    if error.errno in _UNREACHABLE:
        return SourceRefused(f"{where}: the host cannot be reached; check the address and the network", retry=True)
    if isinstance(error, av.error.ArgumentError) and not where.startswith(("rtsp", "rtmp", "webcam")):
        # The error of libav for a format that is not on the whitelist.
        return SourceRefused(f"{where}: its format is not accepted here; send {ACCEPTED}", retry=network)
    if isinstance(error, av.error.InvalidDataError):
        if not network and scheme_of(url) == "file" and (lack := why_unreadable(file_path(url))) is not None:
            return SourceRefused(f"{where}: {lack}", retry=False)
        return SourceRefused(f"{where}: this is no video that libav can read", retry=network)
    if error.errno == errno.EBUSY:
        return SourceRefused(f"{where}: another program is using the device", retry=True)
    return SourceRefused(f"{where}: {describe_error(error)}", retry=network)


def _login_reason(url: str, guard: HostGuard) -> str:
    offered = rtsp_challenges(url, guard, timeout=_DIAGNOSIS_SECONDS)
    if offered and not {"Basic", "Digest MD5", "Digest SHA-256"} & set(offered):
        return f"401: it offers only {' and '.join(offered)} to log in; Basic, Digest MD5 and SHA-256 are known"
    schemes = f" ({', '.join(offered)})" if offered else ""
    if "@" not in url:
        return f"401: it asks for a user name and a password{schemes}; write them as SCHEME://USER:PASSWORD@HOST"
    return f"401: it does not accept this user name and password{schemes}"


def describe_error(error: BaseException) -> str:
    """The text of `error` on one line, without the URL that libav appends."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return redact(str(text).strip().splitlines()[0])


_REASONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, bool], ...] = (
    (ConnectionRefusedError, "the connection was refused; is the camera on, and the port right?", True),
    (av.error.HTTPForbiddenError, "403: this user may not see it", False),
    (av.error.HTTPNotFoundError, "404: the server has no such stream; check the path", True),
    (av.error.HTTPServerError, "the server is there, but cannot serve the stream now (5xx)", True),
    (av.error.HTTPError, "the server does not take the request (4xx)", True),
    (FileNotFoundError, "there is no such file or device", False),
    (PermissionError, "permission denied", False),
    (av.error.ProtocolNotFoundError, "this build of libav does not know the protocol", False),
    (av.error.DecoderNotFoundError, "this build of libav has no decoder for its video", False),
)
