"""`Reloader`: applies a configuration file that changed to the running service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from streamcap.config.config import Config, StreamConfig
from streamcap.config.problems import ConfigError
from streamcap.daemon_pool import DaemonPool
from streamcap.errors import InputError, StreamcapError
from streamcap.redact import redact
from streamcap.streams.stream_set import StreamSet

log = logging.getLogger(__name__)

POLL_S = 0.2
"""A saved file is read when two polls in a row found it the same, so that half a file is not read."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Names of streams, by what must be done to come from one file to another."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    """Same address, other settings: the camera stays connected."""
    restarted: tuple[str, ...] = ()
    """Another address."""
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reload did."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    """Streams that could not be changed, with the reason."""
    applied: tuple[str, ...] = ()
    """Keys of `server` and `models` whose change took effect: server.every, models.talker."""
    needs_restart: tuple[str, ...] = ()
    """Keys whose change takes effect at the next start of the service: server.port, models.fast."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        keys = ("applied", "added", "changed", "restarted", "removed")
        parts = [f"{key} {', '.join(getattr(self, key))}" for key in keys]
        shown = [part for part in parts if not part.endswith(" ")]
        shown += [f"{name} failed: {redact(reason)}" for name, reason in self.failed.items()]
        if self.needs_restart:
            shown.append(f"needs a restart: {', '.join(self.needs_restart)}")
        return "; ".join(shown) or "nothing changed"


def difference(old: Mapping[str, StreamConfig], new: Mapping[str, StreamConfig]) -> Difference:
    """What turns the streams `old` into `new`. Pure."""
    both = [name for name in new if name in old]
    return Difference(
        added=tuple(name for name in new if name not in old),
        changed=tuple(n for n in both if old[n].url == new[n].url and old[n].settings != new[n].settings),
        restarted=tuple(n for n in both if old[n].url != new[n].url),
        removed=tuple(name for name in old if name not in new),
    )


SECTIONS = ("server", "models")


def fixed_keys(config: Config, sections: Sequence[str] = SECTIONS) -> dict[str, Any]:
    """What `config` sets besides the streams, by `server.KEY` or `models.NAME`. Pure."""
    return {f"{section}.{key}": value for section in sections for key, value in getattr(config, section).items()}


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys whose values differ. Pure."""
    return tuple(key for key in sorted({*old, *new}) if old.get(key) != new.get(key))


class Service(Protocol):
    """The running service, besides its streams."""

    def read(self, config: Config) -> Callable[[], Collection[str]]:
        """What makes the service as `config` says, as far as it can while it runs; idempotent, for the event loop.

        It returns keys, such as `server.every` and `models.talker`, that are as in `config` then. `read` itself runs on
        a thread. Raises InputError.
        """


class Reloader:
    """Reads the file again when it was saved, on `request` (SIGHUP), and on `reload` (HTTP).

    The difference between the file before and now is applied; streams that it does not name are not touched. A bad
    file changes nothing.

    Parameters:
        config: the file that the service was started with.
        load: reads and checks the file, on a thread. Raises InputError.
        path: the file.
        named: streams of the command line, which win over the file.
        sections: of the file that the service uses, besides the streams.
    """

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        path: Path,
        *,
        named: frozenset[str] = frozenset(),
        sections: Sequence[str] = SECTIONS,
    ) -> None:
        self.config = config
        """The newest valid file."""
        self._sections = tuple(sections)
        self._in_effect = fixed_keys(config, sections)
        self._load = load
        self.path = path
        self._named = named
        self._applied = self._own(config)
        """The streams of the file. Not what failed for another reason than the file: the next reload tries again."""
        self._streams: StreamSet | None = None
        self._service: Service | None = None
        self._requested = asyncio.Event()
        self._lock = asyncio.Lock()
        self._pool = DaemonPool("config", max_waiting=8)

    def request(self) -> None:
        """Reload soon, and log what changed. On the event loop."""
        self._requested.set()

    async def watch(self, streams: StreamSet, service: Service | None = None) -> None:
        """Reload whenever the file was saved, until cancelled. Without `service`, only streams are changed."""
        self._streams, self._service = streams, service
        try:
            await self._watch()
        finally:
            self._pool.close()

    async def _watch(self) -> None:
        # The file may have been saved while the model was loaded.
        applied: tuple[int, ...] | None = None
        seen: tuple[int, ...] | None = None
        while True:
            requested = await self._wait()
            signature = await self._pool.run(_signature, self.path)
            if requested or (signature == seen and signature != applied):
                applied = signature
                await self._reload_and_log(always=requested)
            seen = signature

    async def _wait(self) -> bool:
        """Wait for the next poll. Returns whether a reload was requested."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_S):
                await self._requested.wait()
        requested = self._requested.is_set()
        self._requested.clear()
        return requested

    async def _reload_and_log(self, *, always: bool) -> None:
        try:
            changes = await self.reload()
        except ConfigError as error:
            log.warning("configuration not reloaded, nothing changed: %s", "; ".join(map(str, error.problems)))
        except StreamcapError as error:
            log.warning("configuration not reloaded, nothing changed: %s", redact(error))
        except Exception:  # a bug must not end the watching
            log.exception("reloading %s failed", self.path)
        else:
            if changes != Changes() or always:
                level = logging.WARNING if changes.failed or changes.needs_restart else logging.INFO
                log.log(level, "configuration reloaded: %s", changes)

    async def reload(self) -> Changes:
        """Read the file and apply what changed. Raises ConfigError, InputError, StreamcapError: nothing changed."""
        if self._streams is None:
            raise StreamcapError("the models are loading; retry in a moment")
        async with self._lock:
            new = await self._pool.run(self._load)
            serve = None if self._service is None else await self._pool.run(self._service.read, new)
            old, wanted, self.config = self._applied, self._own(new), new
            found = difference(old, wanted)
            # Streams may need a new model; and a model may only go once no stream uses it.
            applied = self._apply_fixed(new, serve)
            failures = await self._apply(self._streams, found, new)
            applied += self._apply_fixed(new, serve)
            again = {name for name, error in failures.items() if not isinstance(error, InputError)}
            self._applied = {name: stream for name, stream in wanted.items() if name not in again} | {
                name: old[name] for name in again if name in old
            }
            failed = {name: redact(error) for name, error in failures.items()}
            done = {key: tuple(name for name in names if name not in failed) for key, names in asdict(found).items()}
            waiting = differing(self._in_effect, fixed_keys(new, self._sections))
            return Changes(**done, failed=failed, applied=tuple(sorted(applied)), needs_restart=waiting)

    def _apply_fixed(self, new: Config, serve: Callable[[], Collection[str]] | None) -> tuple[str, ...]:
        """Change what can be changed besides streams. Returns the keys that have changed."""
        if serve is None:
            return ()
        settled, wanted = serve(), fixed_keys(new, self._sections)
        changed = tuple(key for key in differing(self._in_effect, wanted) if key in settled)
        self._in_effect = {key: value for key, value in self._in_effect.items() if key not in changed} | {
            key: wanted[key] for key in changed if key in wanted
        }
        return changed

    def _own(self, config: Config) -> dict[str, StreamConfig]:
        return {name: stream for name, stream in config.streams.items() if name not in self._named}

    async def _apply(self, streams: StreamSet, found: Difference, new: Config) -> dict[str, StreamcapError]:
        """The reasons of those that failed."""
        failed: dict[str, StreamcapError] = {}

        async def attempt(name: str, change: Coroutine[Any, Any, object]) -> None:
            try:
                await change
            except StreamcapError as error:
                failed[name] = error

        def put(name: str) -> Coroutine[Any, Any, None]:
            wanted = new.streams[name]
            return attempt(name, streams.put(name, wanted.url, wanted.settings, scope=wanted.scope))

        # First those that cost nothing, then what waits for sources to end. Removed streams make room for new ones.
        for name in found.changed:
            await put(name)
        removing = (attempt(n, streams.remove(n)) for n in found.removed if n in streams.names())
        await asyncio.gather(*removing)
        await asyncio.gather(*map(put, (*found.restarted, *found.added)))
        return failed


def _signature(path: Path) -> tuple[int, ...]:
    """Changes when the file is saved, also by an editor that replaces it."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)
