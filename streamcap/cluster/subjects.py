"""Names of JetStream streams, buckets and subjects."""

from __future__ import annotations

import re

from streamcap.errors import InputError

ASSIGN_STREAM = "SC_ASSIGN"
"""Work queue: one message a stream, held unacknowledged by its owner."""
LOG_STREAM = "SC_CAPTIONS"
"""The logs of all streams: one subject each."""
STREAMS_BUCKET = "streams"
NODES_BUCKET = "nodes"

_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


def check_site(site: str) -> str:
    """Return `site` if it is valid as part of a subject. Raises InputError."""
    if not _SITE.fullmatch(site):
        raise InputError(f"--site {site[:80]!r}: use up to 32 letters, digits, '_' and '-', beginning with a letter")
    return site


def token(name: str) -> str:
    """The name of a stream as one token of a subject: `.` separates tokens, and no name has `=`."""
    return name.replace(".", "=")


def name_of(subject: str) -> str:
    """The stream's name: the inverse of `token`, for the last token of `subject`."""
    return subject.rpartition(".")[2].replace("=", ".")


def assign_subject(site: str, name: str) -> str:
    return f"sc.assign.{site}.{token(name)}"


def log_subject(name: str) -> str:
    return f"sc.cap.{token(name)}"


def live_subject(name: str) -> str:
    """Interims, on core NATS: not kept."""
    return f"sc.live.{token(name)}"


def infer_subject(model: str) -> str:
    """Batches of samples for the engines of `model`, any characters of which are allowed."""
    return f"sc.infer.{re.sub(r'[^A-Za-z0-9_-]', '=', model)}"
