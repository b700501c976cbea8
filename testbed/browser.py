"""A headless Chromium whose camera plays a file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
from playwright.async_api import Browser, Page, async_playwright

from testbed.programs import require_program
from testbed.timeouts import TIMEOUT_FACTOR

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)
CAPTIONS_SHOWN = (
    "[...document.querySelectorAll('.past li')]"
    ".map((one) => [Number(one.querySelector('time').dateTime.slice(2, -1)), one.querySelector('span').textContent])"
)
"""An expression: the captions on the index page as (start, text), newest first."""


@contextlib.asynccontextmanager
async def chromium(camera: Path | None = None) -> AsyncIterator[Browser]:
    """`camera`: a .y4m or .mjpeg file, played in a loop as the camera's image."""
    program = require_program("chromium", "it shows the pages")
    flags = [*_FLAGS, *([] if camera is None else [f"--use-file-for-fake-video-capture={camera}"])]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield browser
        finally:
            await browser.close()


def kill_chromium(camera: Path) -> None:
    """SIGKILL every process of the Chromium that plays `camera`, so that pages cannot close connections."""
    ours = psutil.Process().children(recursive=True)
    (first, *_) = [one for one in ours if f"--use-file-for-fake-video-capture={camera}" in _command(one)]
    for one in (first, *first.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


async def becomes_true(page: Page, expression: str, seconds: float = TIMEOUT_FACTOR) -> None:
    """Wait until `expression` is true on the page (the pages' content policy forbids Playwright's own waiting)."""
    async with asyncio.timeout(seconds):
        while not await page.evaluate(expression):
            await asyncio.sleep(0.05)


async def publish_camera(page: Page, name: str) -> None:
    """On the index page: use this browser's camera, until its video has come back to the page."""
    await page.get_by_role("button", name="Use this browser").click()
    await page.get_by_label("Name of the stream").fill(name)
    await page.keyboard.press("Enter")
    await becomes_true(page, "document.querySelector('video').videoWidth > 0")


async def page_without_errors(browser: Browser, url: str, **context: Any) -> Any:
    """A page at `url`; its errors are in `page.errors`."""
    page = await (await browser.new_context(**context)).new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.errors = errors  # type: ignore[attr-defined]
    await page.goto(url)
    return page
