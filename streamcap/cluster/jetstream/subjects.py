"""Names of JetStream streams, buckets and subjects."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from streamcap.errors import InputError

LOG_STREAM = "SC_CAPTIONS"
"""The logs of all streams: one subject each."""
STREAMS_BUCKET = "streams"
NODES_BUCKET = "nodes"
RECORDED_STREAM = "SC_RECORDED"
"""How far each log is in the files: one message a stream."""
MODELS_BUCKET = "models"
"""What engines serve: an ingest node must know a model's input before it can make samples."""
ENGINES_SUBJECT = "sc.engines"
"""Reports of the engines, on core NATS: not kept."""
DEMAND_SUBJECT = "sc.demand"
"""What ingest nodes tell the engines, on core NATS."""

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


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """A work queue of JetStream: one message a stream, held unacknowledged by the node that has the stream."""

    stream: str
    """Name in JetStream."""
    verb: str
    role: str
    """Of the nodes that take its messages."""

    @property
    def subjects(self) -> str:
        """Of all sites."""
        return f"sc.{self.verb}.>"

    def subjects_of(self, site: str) -> str:
        return f"sc.{self.verb}.{site}.*"

    def subject(self, site: str, name: str) -> str:
        return f"sc.{self.verb}.{site}.{token(name)}"

    def consumer(self, site: str) -> str:
        """Name of the consumer that the nodes of a site share."""
        return f"{self.role}-{site}"


INGEST_QUEUE = WorkQueue("SC_ASSIGN", "assign", "ingest")
RECORDER_QUEUE = WorkQueue("SC_RECORD", "record", "recorder")


def log_subject(name: str) -> str:
    return f"sc.cap.{token(name)}"


def recorded_subject(name: str) -> str:
    return f"sc.rec.{token(name)}"


def live_subject(name: str) -> str:
    """Interims, on core NATS: not kept."""
    return f"sc.live.{token(name)}"


def infer_subject(engine: str) -> str:
    """Batches of samples for one engine, whose id may have any characters."""
    return f"sc.infer.{_safe(engine)}"


def answer_subject(owner: str, engine: str) -> str:
    """The outcomes of `owner`'s samples; `*` as `engine`: those of all engines."""
    return f"sc.answer.{_safe(owner)}.{engine if engine == '*' else _safe(engine)}"


def model_key(model: str) -> str:
    """The key of a model in its bucket."""
    return _safe(model)


def _safe(name: str) -> str:
    """`name` as one token of a subject; a short hash keeps apart what would become the same."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "=", name)
    return safe if safe == name else f"{safe}={zlib.crc32(name.encode()):08x}"
