"""A real headless Chromium, its camera playing a file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

from tests.conftest import require_program

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)


@contextlib.asynccontextmanager
async def chromium(camera: Path | None = None) -> AsyncIterator[Browser]:
    """`camera`: a .y4m or .mjpeg file, played in a loop as the camera's picture."""
    program = require_program("chromium", "it shows the pages")
    flags = [*_FLAGS, *([] if camera is None else [f"--use-file-for-fake-video-capture={camera}"])]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield browser
        finally:
            await browser.close()


async def becomes_true(page: Page, expression: str) -> None:
    """Wait until `expression` is true on the page (Playwright's own waiting is forbidden by the pages' policy)."""
    async with asyncio.timeout(20):
        while not await page.evaluate(expression):
            await asyncio.sleep(0.05)


async def page_without_errors(browser: Browser, url: str, **context: Any) -> Any:
    """A page at `url`; what goes wrong on it is in `page.errors`."""
    page = await (await browser.new_context(**context)).new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.errors = errors  # type: ignore[attr-defined]
    await page.goto(url)
    return page
