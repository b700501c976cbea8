"""`load_webrtc`: imports what a WebRTC connection needs, when the first one is offered."""

from __future__ import annotations

import asyncio
import importlib
import threading

_MODULES = ("streamcap.server.webrtc.session", "streamcap.server.webrtc.preview_track")
_loaded = threading.Event()


async def load_webrtc() -> None:
    """Import aiortc on a thread: some tenths of a second of CPU time, which the start of the service is spared."""
    if not _loaded.is_set():
        await asyncio.to_thread(_load)


def _load() -> None:
    for module in _MODULES:
        importlib.import_module(module)
    _loaded.set()
