"""`StateFile`: streams that HTTP clients added, changed or removed, for the next start of the service."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamcap.atomic import atomic_write, read_json
from streamcap.config.config import StreamConfig
from streamcap.daemon_pool import DaemonPool
from streamcap.errors import InputError, StreamcapError
from streamcap.media.sources.address import HostScope
from streamcap.media.sources.url import check_url
from streamcap.streams.options import check_name
from streamcap.streams.settings import StreamSettings
from streamcap.streams.stream_set import StreamSet

log = logging.getLogger(__name__)

STATE_NAME = "streamcap-state.json"
STATE_VERSION = 1
# Its URLs contain passwords.
STATE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class SavedStream:
    """What HTTP clients made of one stream."""

    stream: StreamConfig | None
    """None: removed."""
    base: str
    """Digest of the stream's entry in the configuration file at that time; empty: it had none."""


class StateFile:
    """The file `path`. A stream's entry counts as long as its entry in the configuration file stays as it was.

    Parameters:
        configured: the streams of the newest configuration file.

    Raises InputError if the file cannot be read or written.
    """

    def __init__(self, path: Path, configured: Callable[[], Mapping[str, StreamConfig]]) -> None:
        self._path = path
        self._configured = configured
        self._saved = _parse(path, read_json(path)) if path.exists() else {}
        self._pool = DaemonPool("state", max_waiting=256)
        atomic_write(path, self._text(), sync=True, mode=STATE_MODE)

    def streams(self) -> dict[str, StreamConfig]:
        """The streams to start: those of the configuration file, as HTTP clients changed them."""
        configured = self._configured()
        found = dict(configured)
        for name, saved in list(self._saved.items()):
            if saved.base != _digest(configured.get(name)):
                log.info(
                    "stream %s: its entry in the configuration file has changed since; %s counts no more",
                    name,
                    self._path,
                )
                del self._saved[name]
            elif saved.stream is None:
                found.pop(name, None)
            else:
                try:
                    check_url(saved.stream.url)
                except InputError as error:
                    log.warning("stream %s of %s is left out: %s", name, self._path, error)
                else:
                    found[name] = saved.stream
        return found

    async def save(self, streams: StreamSet, name: str) -> None:
        """Remember what the stream `name` is now. Raises StreamcapError if the file cannot be written."""
        configured = self._configured().get(name)
        if name in streams.names():
            stream = streams.get(name)
            self._saved[name] = SavedStream(
                StreamConfig(stream.source_url, stream.settings, stream.scope), _digest(configured)
            )
        elif configured is not None:
            self._saved[name] = SavedStream(None, _digest(configured))
        else:
            self._saved.pop(name, None)
        try:
            await self._pool.run(self._write, self._text())
        except StreamcapError as error:
            raise StreamcapError(f"stream {name} is as requested, but a restart will forget it: {error}") from None

    def close(self) -> None:
        """Let the thread end after all writes. Idempotent; does not wait."""
        self._pool.close()

    def _write(self, text: str) -> None:
        atomic_write(self._path, text, sync=True, mode=STATE_MODE)

    def _text(self) -> str:
        entries = {
            name: {"base": saved.base, **({} if saved.stream is None else _as_json(saved.stream))}
            for name, saved in self._saved.items()
        }
        return json.dumps({"version": STATE_VERSION, "streams": entries}, indent=1) + "\n"


def _as_json(stream: StreamConfig) -> dict[str, Any]:
    return {"url": stream.url, "scope": stream.scope.value, "settings": stream.settings.as_json()}


def _digest(stream: StreamConfig | None) -> str:
    if stream is None:
        return ""
    return hashlib.sha256(json.dumps(_as_json(stream), sort_keys=True).encode()).hexdigest()


def _parse(path: Path, content: Mapping[str, Any]) -> dict[str, SavedStream]:
    """Raises InputError for anything that `StateFile` did not write; its values are never shown."""
    found = {}
    try:
        if content["version"] != STATE_VERSION:
            raise ValueError("another version")
        for name, entry in content["streams"].items():
            stream = None
            if "url" in entry:
                settings = StreamSettings(**entry["settings"])
                stream = StreamConfig(str(entry["url"]), settings, HostScope(entry["scope"]))
            found[check_name(name)] = SavedStream(stream, str(entry["base"]))
    except (KeyError, TypeError, ValueError, AttributeError, InputError):
        raise InputError(f"{path}: not a state file of this version; move it away") from None
    return found
