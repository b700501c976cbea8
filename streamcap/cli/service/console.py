"""`print_captions`: prints final captions of a running service, one per line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.text import Text

from streamcap.captions.formats.vtt import timestamp
from streamcap.captions.hub import Hub
from streamcap.captions.subscription import CloseReason, SubscribeOptions, Subscription

_COLORS = ("cyan", "magenta", "yellow", "green", "blue", "red")


async def print_captions(hub: Hub) -> None:
    """Print `TIME NAME caption` for every final, until cancelled. State changes are in the log."""
    woken, printed = asyncio.Event(), asyncio.Event()
    writer = _Writer(printed.set)
    colors: dict[str, str] = {}
    while True:
        subscription = hub.subscribe(SubscribeOptions(interim=False), woken.set)
        try:
            await _print(subscription, writer, woken, printed, colors)
        finally:
            hub.unsubscribe(subscription)
        if subscription.cause is not CloseReason.SLOW or not writer.works:
            return
        # The terminal was blocked for long: continue with the current captions.


async def _print(
    subscription: Subscription, writer: _Writer, woken: asyncio.Event, printed: asyncio.Event, colors: dict[str, str]
) -> None:
    """Print until the subscription is closed or standard output fails."""
    console = Console(highlight=False, soft_wrap=True)
    while subscription.closed is None and writer.works:
        await woken.wait()
        woken.clear()
        for text in subscription.take():
            line = _line(json.loads(text), colors)
            if line is not None:
                with console.capture() as captured:
                    console.print(line)
                # Meanwhile further events wait in the subscription, under its drop policy.
                printed.clear()
                writer.put(captured.get())
                await printed.wait()


class _Writer:
    """Writes texts to standard output on a daemon thread, one at a time.

    A terminal paused with Ctrl-S, or a pipe that nobody reads, blocks only this thread. An executor or `sys.stdout`'s
    buffer would also block the exit of the program.
    """

    def __init__(self, on_written: Callable[[], object]) -> None:
        self.works = True
        self._loop = asyncio.get_running_loop()
        self._on_written = on_written
        self._texts: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="print", daemon=True).start()

    def put(self, text: str) -> None:
        self._texts.put(text)

    def _run(self) -> None:
        sys.stdout.flush()
        while True:
            data = self._texts.get().encode(sys.stdout.encoding or "utf-8", "replace")
            try:
                while data:
                    data = data[os.write(sys.stdout.fileno(), data) :]
            except OSError:  # the reader has closed the pipe
                self.works = False
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._on_written)


def _line(message: dict[str, Any], colors: dict[str, str]) -> Text | None:
    name = str(message.get("stream", ""))
    color = colors.setdefault(name, _COLORS[len(colors) % len(_COLORS)])
    if message["type"] == "caption":
        return Text.assemble(
            (timestamp(round(1000 * message["start"])), "dim"),
            "  ",
            (name, color),
            "  ",
            (message["text"], "bold"),
            (f"  {message['latency_ms']['total']:.0f} ms", "dim"),
        )
    return None
