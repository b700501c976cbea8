"""Finals on standard output, one line each, while a service runs."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from streamcap.captions.formats.vtt import timestamp
from streamcap.captions.hub import Hub, Wish

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")


async def print_captions(hub: Hub) -> None:
    """Print `TIME NAME caption` for every final, and states in dim letters, until cancelled."""
    console = Console(highlight=False, soft_wrap=True)
    woken = asyncio.Event()
    subscription = hub.subscribe(Wish(interim=False), woken.set)
    colours: dict[str, str] = {}
    try:
        while subscription.closed is None:
            await woken.wait()
            woken.clear()
            for text in subscription.take():
                line = _line(json.loads(text), colours)
                if line is not None:
                    # A terminal that is held with Ctrl-S must hold up its thread, not the loop.
                    await asyncio.to_thread(_put, console, line)
    finally:
        hub.unsubscribe(subscription)


def _put(console: Console, line: Text) -> None:
    console.print(line)
    sys.stdout.flush()


def _line(message: dict[str, Any], colours: dict[str, str]) -> Text | None:
    name = str(message.get("stream", ""))
    colour = colours.setdefault(name, _COLOURS[len(colours) % len(_COLOURS)])
    if message["type"] == "caption":
        return Text.assemble(
            (timestamp(round(1000 * message["start"])), "dim"),
            "  ",
            (name, colour),
            "  ",
            (message["text"], "bold"),
            (f"  {message['latency_ms']['total']:.0f} ms", "dim"),
        )
    if message["type"] == "status":
        reason = f" ({message['reason']})" if message["reason"] else ""
        return Text.assemble((f"{'':12}  ", ""), (name, colour), (f"  {message['state']}{reason}", "dim italic"))
    return None
