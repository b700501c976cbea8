"""`streamcap-obs`: sends finals to OBS as closed captions (CEA-608), over obs-websocket 5."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

from streamcap_client.caption_slot import CaptionSlot
from streamcap_client.events import Caption, Extend
from streamcap_client.feed import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Feed, RefusedError
from streamcap_client.obs_session import (
    OUTPUT_NOT_RUNNING,
    ObsAwayError,
    ObsRefusedError,
    ObsRequestError,
    ObsSession,
    obs_session,
)

PORT = 4455
# CEA-608 carries two bytes per video frame: a caption of 128 characters takes two seconds. OBS accepts captions at any
# rate and queues them without a limit, so faster captions would fall behind.
EVERY_SECONDS = 2.0
HOLD_SECONDS = 10.0


class Bridge:
    """Sends finals of `feed` to the OBS at `url` while `run` runs.

    Parameters:
        feed: created with interim=False; `run` reads and closes it.
        url: of obs-websocket, from `obs_url`.
        password: None if OBS needs none.
        report: called with one line at every change of state.
        every, hold: see CaptionSlot.
        first_pause, longest_pause: seconds before a reconnection to OBS; the pause grows, with jitter.
    """

    def __init__(
        self,
        feed: Feed,
        url: str,
        password: str | None,
        report: Callable[[str], None],
        *,
        every: float = EVERY_SECONDS,
        hold: float = HOLD_SECONDS,
        first_pause: float = FIRST_PAUSE_SECONDS,
        longest_pause: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        self.slot = CaptionSlot(every, hold, time.monotonic)
        self.reconnections = 0
        self._feed, self._url, self._password = feed, url, password
        self._report = report
        self._last_report = ""
        self._first_pause, self._longest_pause = first_pause, longest_pause
        self._waiting = asyncio.Event()

    async def run(self) -> None:
        """Run until the feed ends or the task is cancelled. Raises RefusedError (feed), ObsRefusedError."""
        await _first_of(self._follow(), self._keep_connected())

    async def _follow(self) -> None:
        async with self._feed:
            async for event in self._feed:
                match event:
                    case Caption(is_final=True) if event.text.strip():
                        self.slot.put(event.id, event.text)
                        self._waiting.set()
                    case Extend():
                        self.slot.extend(event.id)

    async def _keep_connected(self) -> None:
        """Connect to OBS, and reconnect until cancelled."""
        pause = self._first_pause
        while True:
            try:
                async with obs_session(self._url, self._password) as session:
                    pause = self._first_pause
                    self._report_line(f"connected to OBS at {self._url} (obs-websocket {session.version})")
                    await _first_of(session.listen(), self._deliver(session))
            except ObsAwayError as error:
                self._report_line(
                    f"no OBS at {self._url} ({error}); retrying. In OBS: Tools, WebSocket Server Settings, "
                    "Enable WebSocket server"
                )
            self.reconnections += 1
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(self._longest_pause, 2 * pause)

    async def _deliver(self, session: ObsSession) -> None:
        while True:
            await self._waiting.wait()
            await asyncio.sleep(self.slot.pause())
            self._waiting.clear()
            line = self.slot.take()
            if line is None:
                continue
            delivered = False
            try:
                await session.send_caption(line.text)
                delivered = True
                self.slot.statistics.sent += 1
                self._report_line(f"OBS accepts captions at {self._url}")
            except ObsRequestError as error:
                if error.code == OUTPUT_NOT_RUNNING:
                    self._report_line(
                        "OBS is not streaming: captions are sent once it does; recordings have no captions"
                    )
                else:
                    self._report_line(f"OBS refused a caption: {error}; retrying")
            finally:
                if not delivered:
                    self.slot.give_back(line)
                    self._waiting.set()

    def _report_line(self, line: str) -> None:
        """Report a line unless it repeats the last one."""
        if line != self._last_report:
            self._last_report = line
            self._report(line)


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run `coroutines` until one ends or fails, then cancel the others. Raises the error of that one."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def obs_url(text: str) -> str:
    """The websocket address of `HOST`, `HOST:PORT` or a `ws://` or `wss://` URL. Raises ValueError."""
    try:
        parts = urlsplit(text if "://" in text else f"ws://{text}")
        valid = parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0
        # Other parts might be a password, which has its own option.
        valid = valid and parts.username is None and parts.path in ("", "/") and not parts.query and not parts.fragment
    except ValueError:
        valid = False
    if not valid:
        raise ValueError("--obs is not the address of OBS; use ws://host:4455, and --password for the password")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or PORT}"


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise ValueError
    return value


def main() -> None:
    """`streamcap-obs [URL] [--stream NAME] [--obs ws://host:4455]`."""
    parser = argparse.ArgumentParser(prog="streamcap-obs", description="Send captions to OBS as closed captions.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8642", help="URL of the service")
    parser.add_argument("--stream", action="append", default=[], help="repeatable; default: all")
    parser.add_argument("--token", default=os.environ.get("STREAMCAP_TOKEN"), help="or STREAMCAP_TOKEN")
    parser.add_argument(
        "--obs", default="ws://127.0.0.1:4455", help="URL of obs-websocket; default: ws://127.0.0.1:4455"
    )
    parser.add_argument("--password", help="of obs-websocket; STREAMCAP_OBS_PASSWORD is safer: ps shows arguments")
    parser.add_argument(
        "--every", type=seconds, default=EVERY_SECONDS, help="minimum seconds between captions; default: 2"
    )
    arguments = parser.parse_args()
    password = arguments.password or os.environ.get("STREAMCAP_OBS_PASSWORD") or None

    def report(line: str) -> None:
        sys.stderr.write(f"streamcap-obs: {line}\n")
        sys.stderr.flush()

    try:
        feed = Feed(arguments.url, streams=arguments.stream, interim=False, token=arguments.token)
        bridge = Bridge(feed, obs_url(arguments.obs), password, report, every=arguments.every)
    except ValueError as error:
        parser.error(str(error))
    try:
        asyncio.run(bridge.run())
    except (RefusedError, ObsRefusedError) as error:
        report(str(error))
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    except KeyboardInterrupt:
        done = bridge.slot.statistics
        report(f"{done.sent} captions sent; {done.replaced} replaced by newer ones, {done.stale} expired")


if __name__ == "__main__":
    main()
