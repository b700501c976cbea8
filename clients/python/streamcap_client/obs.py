"""The feed's finals into a stream that OBS sends: closed captions (CEA-608), by obs-websocket 5."""

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
# CEA-608 carries two bytes a video frame: a caption of 128 characters takes two seconds. OBS takes them at any pace and
# puts what it has not sent yet in a queue that it never shortens, so that captions would lag more and more.
EVERY_SECONDS = 2.0
HOLD_SECONDS = 10.0


class Bridge:
    """Brings finals of `feed` to the OBS at `url`, for as long as `run` runs.

    Parameters:
        feed: made with interim=False; read and closed by `run`.
        url: of obs-websocket, from `obs_url`.
        password: None where OBS asks for none.
        tell: gets one line whenever something changes for the user.
        every, hold: see CaptionSlot.
        first_pause, longest_pause: seconds before a reconnection to OBS; they grow from one to the other, jittered.
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
        """Until the feed ends or the task is cancelled. Raises RefusedError (feed), ObsRefusedError."""
        await _first_of(self._follow(), self._reach())

    async def _follow(self) -> None:
        async with self._feed:
            async for event in self._feed:
                match event:
                    case Caption(is_final=True) if event.text.strip():
                        self.slot.put(event.id, event.text)
                        self._waiting.set()
                    case Extend():
                        self.slot.extend(event.id)

    async def _reach(self) -> None:
        """Connect to OBS, again and again."""
        pause = self._first_pause
        while True:
            try:
                async with obs_session(self._url, self._password) as session:
                    pause = self._first_pause
                    self._report_line(f"connected to OBS at {self._url} (obs-websocket {session.version})")
                    await _first_of(session.listen(), self._deliver(session))
            except ObsAwayError as error:
                self._report_line(
                    f"no OBS at {self._url} ({error}); trying on. In OBS: Tools, WebSocket Server Settings, "
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
                self._report_line(f"OBS takes captions at {self._url}")
            except ObsRequestError as error:
                if error.code == OUTPUT_NOT_RUNNING:
                    self._report_line(
                        "OBS is not streaming: captions go out once it does; a recording alone carries none"
                    )
                else:
                    self._report_line(f"OBS did not take a caption: {error}; trying on")
            finally:
                if not delivered:
                    self.slot.give_back(line)
                    self._waiting.set()

    def _report_line(self, line: str) -> None:
        """Tell what is new, once."""
        if line != self._last_report:
            self._last_report = line
            self._report(line)


async def _first_of(*works: Coroutine[Any, Any, None]) -> None:
    """Run `works` until one ends or fails, then end the others. Raises what that one raised."""
    tasks = [asyncio.create_task(work) for work in works]
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
        sound = parts.scheme in ("ws", "wss") and parts.hostname and parts.port != 0
        # Anything more might be a password, which has its own option.
        sound = sound and parts.username is None and parts.path in ("", "/") and not parts.query and not parts.fragment
    except ValueError:
        sound = False
    if not sound:
        raise ValueError("--obs is no address of OBS: write it as ws://host:4455, the password in --password")
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or PORT}"


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise ValueError
    return value


def main() -> None:
    """`streamcap-obs [URL] [--stream NAME] [--obs ws://host:4455]`."""
    parser = argparse.ArgumentParser(prog="streamcap-obs", description="Captions into the stream that OBS sends.")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8642", help="of the service")
    parser.add_argument("--stream", action="append", default=[], help="may be given several times; all without")
    parser.add_argument("--token", default=os.environ.get("STREAMCAP_TOKEN"), help="or STREAMCAP_TOKEN")
    parser.add_argument("--obs", default="ws://127.0.0.1:4455", help="of obs-websocket (ws://127.0.0.1:4455)")
    parser.add_argument("--password", help="of obs-websocket; better in STREAMCAP_OBS_PASSWORD, where ps shows it not")
    parser.add_argument("--every", type=seconds, default=EVERY_SECONDS, help="seconds between two captions (2)")
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
        report(f"{done.sent} captions sent; {done.replaced} left out for newer ones, {done.stale} grown old")


if __name__ == "__main__":
    main()
