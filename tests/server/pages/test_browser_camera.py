"""End to end in a browser: its camera plays drawn scenes, and the page shows their captions."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from testbed.browser import (
    CAPTIONS_SHOWN,
    becomes_true,
    chromium,
    kill_chromium,
    page_without_errors,
    publish_camera,
)
from testbed.film import Film
from testbed.programs import require_gstreamer
from testbed.rtsp.camera import Clip, RtspServer
from testbed.service import Service, Viewer
from testbed.timeouts import TIMEOUT_FACTOR

pytestmark = [pytest.mark.browser, pytest.mark.e2e]

WANTED = 30


async def test_browser_camera_is_captioned_in_page(tmp_path: Path) -> None:
    film = Film(seed=1)
    camera = film.write(tmp_path / "camera.y4m")
    with (
        Service("tab=whip:", "--every", "0.5", "--change-threshold", "0") as service,
        Viewer(service, "?interim=0") as viewer,
    ):
        async with chromium(camera) as browser:
            page = await page_without_errors(browser, service.base)
            # The page shows the video published over WHIP, received over WHEP, and its captions.
            await publish_camera(page, "tab")
            async with asyncio.timeout(TIMEOUT_FACTOR):
                while await page.locator(".past li").count() < WANTED:
                    await asyncio.sleep(0.2)
            shown: list[tuple[float, str]] = [(start, text) for start, text in await page.evaluate(CAPTIONS_SHOWN)]
            assert page.errors == []
            # The browser was killed; the service detects it and waits for the next publisher.
            kill_chromium(camera)
            await asyncio.to_thread(viewer.until, lambda: viewer.states("tab")[-1] == "reconnecting")
            assert viewer.states("tab")[-3:] == ["live", "stalled", "reconnecting"]
    right = film.right(shown)
    assert sum(right) >= 0.9 * len(right), [one for one, true in zip(shown, right, strict=True) if not true]
    assert len({text for _, text in shown}) >= film.scenes - 1


async def test_rtsp_video_plays_in_page() -> None:
    require_gstreamer()
    with (
        RtspServer(Clip(seed=1, scenes=2, seconds=2.0), paths=("door",)) as cameras,
        Service(f"door={cameras.url()}") as service,
    ):
        async with chromium() as browser:
            page = await page_without_errors(browser, service.base)
            await becomes_true(page, "document.querySelector('video')?.videoWidth === 640")
            played = await page.evaluate("document.querySelector('video').currentTime")
            await becomes_true(page, f"document.querySelector('video').currentTime > {played} + 1")
            assert page.errors == []
