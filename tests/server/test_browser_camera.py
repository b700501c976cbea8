"""The whole way in a real browser: its camera shows drawn scenes, and the page shows what is seen in them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import IO

import av
import pytest

from streamcap.media.scenes import SceneScript, draw
from tests.conftest import require_gstreamer
from tests.end_to_end.service import Service
from tests.server.browser import becomes_true, chromium, page_without_errors
from tests.servers.camera import Clip, RtspServer

pytestmark = pytest.mark.browser

SCENES, SECONDS, RATE = 6, 3.0, 10
WIDTH, HEIGHT = 424, 240
CYCLE = SCENES * SECONDS
WANTED = 30


def film(file: IO[bytes], script: SceneScript) -> None:
    """The scenes one after the other as YUV4MPEG2, which Chromium plays as a camera, over and over."""
    file.write(f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F{RATE}:1 Ip A1:1 C420jpeg\n".encode())
    for number in range(round(CYCLE * RATE)):
        time = number / RATE
        picture = av.VideoFrame.from_ndarray(draw(script.scene_at(time), time, WIDTH, HEIGHT), format="rgb24")
        planes = picture.reformat(format="yuv420p").to_ndarray()
        file.write(b"FRAME\n" + planes.tobytes())


def share_of_truth(script: SceneScript, captions: list[tuple[float, str]]) -> float:
    """How many of the captions (start, text) are true, at the one phase between the two clocks that fits best."""

    def right(offset: float) -> int:
        return sum(script.sentence_at((start + offset) % CYCLE) == text for start, text in captions)

    return max(right(step / 20) for step in range(round(CYCLE * 20))) / len(captions)


async def test_the_browser_s_camera_is_captioned_truly_on_the_page(tmp_path: Path) -> None:
    script = SceneScript(seed=1, seconds_per_scene=SECONDS)
    camera = tmp_path / "camera.y4m"
    with camera.open("wb") as file:
        film(file, script)
    with Service("tab=whip:", "--every", "0.5", "--gate", "0") as service:
        async with chromium(camera) as browser:
            page = await page_without_errors(browser, service.base)
            await page.get_by_role("button", name="Use this browser").click()
            await page.get_by_label("Name of the stream").fill("tab")
            await page.keyboard.press("Enter")
            # Seen in the page: what went up over WHIP comes back over WHEP, and its captions over the feed.
            await becomes_true(page, "document.querySelector('video').videoWidth > 0")
            async with asyncio.timeout(60):
                while await page.locator(".past li").count() < WANTED:
                    await asyncio.sleep(0.2)
            shown: list[tuple[str, str]] = await page.evaluate(
                "[...document.querySelectorAll('.past li')]"
                ".map((one) => [one.querySelector('time').dateTime, one.querySelector('span').textContent])"
            )
            assert page.errors == []
            # The tab is gone without a word; the service notices within five seconds and says so.
            await page.context.close()
            async with asyncio.timeout(8):
                while '"reconnecting"' not in service.get("/streams/tab")[1]:
                    await asyncio.sleep(0.1)
    captions = [(float(start[2:-1]), text) for start, text in shown]
    truth = share_of_truth(script, captions)
    assert truth >= 0.9, (truth, captions)
    assert len({text for _, text in captions}) >= SCENES - 1


async def test_the_video_of_an_rtsp_camera_plays_in_the_page() -> None:
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
