"""`load_webrtc`: imports what a WebRTC connection needs, when the first one is offered."""

from __future__ import annotations

import importlib
import threading

from streamcap.daemon_pool import DaemonPool

_MODULES = ("streamcap.server.webrtc.session", "streamcap.server.webrtc.preview_track")
_loaded = threading.Event()


async def load_webrtc() -> None:
    """Import aiortc on a thread: some tenths of a second of CPU time, which the start of the service is spared."""
    if not _loaded.is_set():
        pool = DaemonPool("webrtc-import")
        try:
            await pool.run(_load)
        finally:
            pool.close()


def _load() -> None:
    for module in _MODULES:
        importlib.import_module(module)
    _loaded.set()
