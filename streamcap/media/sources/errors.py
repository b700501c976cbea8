"""libav's errors in words: one redacted line that says what, where and what to do."""

from __future__ import annotations

import errno

import av

from streamcap.media.containers import ACCEPTED
from streamcap.media.sources.base import SourceRefused
from streamcap.redact import redact

HUNG_UP = (errno.EIO, errno.EPIPE, errno.ECONNRESET)
"""How libav says that the other side closed the connection."""
_NO_ANSWER = (errno.ETIMEDOUT, errno.EAGAIN)
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EADDRNOTAVAIL)


def open_error(error: av.FFmpegError, url: str, *, network: bool, waited: float, open_timeout: float) -> SourceRefused:
    """Why `url` could not be opened. `waited`: the seconds that opening took, which alone tell some timeouts."""
    where = redact(url)
    timed_out = isinstance(error, av.error.ExitError | TimeoutError) or error.errno in _NO_ANSWER
    if network and (timed_out or waited >= 0.95 * open_timeout):
        return SourceRefused(f"{where}: no answer within {open_timeout:g} s", retry=True)
    for kind, reason, retry in _REASONS:
        if isinstance(error, kind):
            return SourceRefused(f"{where}: {reason}", retry=retry and network)
    if error.errno in _UNREACHABLE:
        return SourceRefused(f"{where}: the host cannot be reached; check the address and the network", retry=True)
    if isinstance(error, av.error.ArgumentError) and not where.startswith(("rtsp", "rtmp", "webcam")):
        # libav's answer to a format that is not in the list.
        return SourceRefused(f"{where}: its format is not accepted here; send {ACCEPTED}", retry=network)
    if isinstance(error, av.error.InvalidDataError):
        return SourceRefused(f"{where}: this is no video that libav can read", retry=network)
    if error.errno == errno.EIO and network:
        return SourceRefused(f"{where}: the host is unknown or hung up; check the name", retry=True)
    if error.errno == errno.EBUSY:
        return SourceRefused(f"{where}: another program is using the device", retry=True)
    return SourceRefused(f"{where}: {describe_error(error)}", retry=network)


def describe_error(error: BaseException) -> str:
    """libav's own words for `error`, on one line, without the URL it appends."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return redact(str(text).strip().splitlines()[0])


_REASONS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], str, bool], ...] = (
    (ConnectionRefusedError, "the connection was refused; is the camera on, and the port right?", True),
    (av.error.HTTPUnauthorizedError, "401: user name or password is missing or wrong", False),
    (av.error.HTTPForbiddenError, "403: this user may not see it", False),
    (av.error.HTTPNotFoundError, "404: the server has no such stream; check the path", True),
    (av.error.HTTPServerError, "the server is there, but cannot serve the stream now (5xx)", True),
    (av.error.HTTPError, "the server does not take the request (4xx)", True),
    (FileNotFoundError, "there is no such file or device", False),
    (PermissionError, "permission denied", False),
    (av.error.ProtocolNotFoundError, "this build of libav does not know the protocol", False),
    (av.error.DecoderNotFoundError, "this build of libav has no decoder for its video", False),
)
