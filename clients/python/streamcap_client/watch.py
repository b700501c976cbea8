"""`streamcap-watch`: prints finals in a terminal, with the current interim caption below."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import sys

from streamcap_client.events import Caption, Event, Gap, Status
from streamcap_client.feed import Feed, RefusedError


class Screen:
    """Formats events as text. width: columns of the terminal; 0: no interim captions."""

    def __init__(self, width: int) -> None:
        self._width = width

    def draw(self, event: Event) -> str:
        """The text to print for `event`."""
        match event:
            case Caption(is_final=True, text=""):  # it only ends an interim
                return "\r\x1b[K" if self._width else ""
            case Caption(is_final=True):
                seconds = int(event.start)
                clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
                return self._line(f"{clock}  {event.stream}  {event.text}")
            case Caption():
                text = f"…  {event.stream}  {event.text}"
                return f"\r\x1b[K{text[: self._width - 1]}" if self._width else ""
            case Status():
                return self._line(f"--  {event.stream} is {event.state}{f': {event.reason}' if event.reason else ''}")
            case Gap():
                return self._line(f"--  {event.stream}: {event.last - event.first + 1} events missed")
        return ""

    def _line(self, text: str) -> str:
        return f"\r\x1b[K{text}\n" if self._width else f"{text}\n"


class NewMessages(logging.Filter):
    """Drops a message that equals the one before: attempts to connect fail for one reason."""

    _last = ""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new, self._last = message != self._last, message
        return is_new


def show_problems() -> None:
    """Tell on standard error why there is no connection: `Feed` only logs it, and tries again."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("streamcap-watch: %(message)s; trying again"))
    handler.addFilter(NewMessages())
    logger = logging.getLogger("streamcap_client")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


async def watch(feed: Feed, screen: Screen) -> None:
    """Print events until the feed ends."""
    async with feed:
        async for event in feed:
            sys.stdout.write(screen.draw(event))
            sys.stdout.flush()


def main() -> None:
    """`streamcap-watch URL [--stream NAME ...]`."""
    parser = argparse.ArgumentParser(prog="streamcap-watch", description="Watch captions in a terminal.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8642", help="URL of the service")
    parser.add_argument("--stream", action="append", default=[], help="repeatable; default: all")
    parser.add_argument("--finals", action="store_true", help="final captions only")
    parser.add_argument(
        "--token", default=os.environ.get("STREAMCAP_TOKEN"), help="token of the service; or STREAMCAP_TOKEN"
    )
    arguments = parser.parse_args()
    terminal = sys.stdout.isatty()
    try:
        feed = Feed(
            arguments.url,
            streams=arguments.stream,
            interim=terminal and not arguments.finals,
            token=arguments.token,
        )
    except ValueError as error:
        parser.error(str(error))
    show_problems()
    try:
        asyncio.run(watch(feed, Screen(shutil.get_terminal_size().columns if terminal else 0)))
    except RefusedError as error:
        sys.stderr.write(f"streamcap-watch: {error}\n")
        sys.exit(2)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(0)


if __name__ == "__main__":
    main()
