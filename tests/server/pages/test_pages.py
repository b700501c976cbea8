"""The pages in a real browser."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from streamcap.captions.event import StreamState
from testbed.browser import becomes_true, chromium, page_without_errors
from testbed.http.prefix_proxy import PrefixProxy
from testbed.programs import require_program
from tests.media.fakes import write_video
from tests.server.conftest import LATENCY, Server, Start, until

pytestmark = pytest.mark.browser


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    """One for all tests; its camera shows plain blue."""
    camera = tmp_path_factory.mktemp("camera") / "camera.y4m"
    ffmpeg = require_program("ffmpeg", "it makes the camera's file")
    encode = (*(ffmpeg, "-v", "error", "-f", "lavfi", "-i", "color=0x2060c0:s=320x240:r=10:d=2"), "-pix_fmt", "yuv420p")
    await asyncio.to_thread(subprocess.run, (*encode, str(camera)), check=True)
    async with chromium(camera) as running:
        yield running


async def test_page_names_model(browser: Browser, server: Server) -> None:
    page = await page_without_errors(browser, server.url)
    await page.get_by_text("model mini: drawn scenes", exact=True).wait_for()
    await page.context.close()


async def test_captions_update_in_place_and_video_plays(browser: Browser, server: Server) -> None:
    door = server.streams.get("door")
    image = av.VideoFrame.from_ndarray(np.full((720, 1280, 3), (30, 160, 60), np.uint8), format="rgb24")
    door.frame = SimpleNamespace(video_frame=image)
    door.status(StreamState.LIVE)
    page = await page_without_errors(browser, server.url)
    card = page.locator("article", has=page.get_by_role("heading", name="door"))
    await card.locator(".state", has_text="live").wait_for()
    door.interim("a man")
    await card.locator(".caption[data-final=false]", has_text="a man").wait_for()
    door.final("a man opens a door")
    await card.locator(".caption[data-final=true]", has_text="a man opens a door").wait_for()
    assert await card.locator(".past li").count() == 1
    assert await card.locator(".latency").inner_text() == "10 ms"
    # Screen readers get finals only.
    announced = card.locator("[aria-live=polite]")
    assert await announced.text_content() == "a man opens a door"
    door.status(StreamState.RECONNECTING, "the camera is away")
    await card.locator(".reason", has_text="the camera is away").wait_for()
    door.status(StreamState.LIVE)
    await becomes_true(page, "document.querySelector('video').videoWidth === 640")
    await until(lambda: len(server.app.state.whep_sessions) == 1)
    assert page.errors == []
    await page.context.close()
    await until(lambda: len(server.app.state.whep_sessions) == 0)


async def test_page_shows_doubt_and_age(browser: Browser, server: Server) -> None:
    door = server.streams.get("door")
    door.status(StreamState.LIVE)
    page = await page_without_errors(browser, server.url)
    caption = page.locator("article .caption")
    await page.locator(".state", has_text="live").wait_for()
    door.final("a dog runs", 0.7)
    await page.locator(".caption[data-doubt=true]", has_text="perhaps a dog runs").wait_for()
    door.final("a man opens a door", 0.9)
    await page.locator(".caption[data-doubt=false]", has_text="a man opens a door").wait_for()
    assert await caption.get_attribute("data-old") == "false"
    await page.evaluate("const now = performance.now.bind(performance); performance.now = () => now() + 9000")
    await page.locator(".caption[data-old=true]").wait_for()
    await page.context.close()


FOCUSED = """((one) => (one === document.body ? "" : (one.ariaLabel ?? one.innerText)))(document.activeElement)"""


async def tab_to(page: Page, name: str) -> None:
    """Press Tab until the element named `name` has the focus."""
    for _ in range(40):
        await page.keyboard.press("Tab")
        if name in await page.evaluate(FOCUSED):
            return
    raise AssertionError(f"{name} cannot be reached by Tab")


@pytest.mark.parametrize("width", [400, 1300])
async def test_layout_is_stable_on_captions_and_errors(browser: Browser, server: Server, width: int) -> None:
    door = server.streams.get("door")
    door.status(StreamState.LIVE)
    page = await page_without_errors(browser, server.url, viewport={"width": width, "height": 800})
    card = page.locator("article")
    await card.locator(".state", has_text="live").wait_for()
    await card.locator(".counts", has_text="captions").wait_for()

    async def places() -> list[list[float]]:
        """Position of every permanent element."""
        return await page.evaluate(
            """[..."header > *, article, .screen, h2, .bar, .body, .acts > *".split(", ")]
            .flatMap((those) => [...document.querySelectorAll(those)])
            .map((one) => one.getBoundingClientRect()).map(({ x, y, bottom }) => [x, y, bottom])"""
        )

    before = await places()
    door.interim("a")
    door.final("a man opens a door")
    long = "a very long sentence about three men in red shirts who run over the wide green grass beside a truck"
    door.final(long)
    await card.locator(".past li", has_text="three men").wait_for()
    door.status(StreamState.STALLED, f"no frame for a long time: {long}")
    await card.locator(".reason", has_text="no frame").wait_for()
    assert await places() == before
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # The complete reason is shown above the address.
    reason, address = await card.locator(".reason").bounding_box(), await card.locator(".address").bounding_box()
    assert reason is not None
    assert address is not None
    assert reason["y"] + reason["height"] <= address["y"]
    assert await card.locator(".reason").evaluate("(one) => one.scrollHeight <= one.clientHeight + 1")
    assert page.errors == []


async def test_announce_switch_and_dialogs_by_keyboard(browser: Browser, server: Server) -> None:
    await server.streams.add("yard", "rtsp://yard")
    page = await page_without_errors(browser, server.url)
    await page.get_by_role("heading", name="yard").wait_for()
    await page.keyboard.press("Tab")
    assert await page.evaluate(FOCUSED) == "Skip to the cameras"
    await page.keyboard.press("Enter")
    await tab_to(page, "Announce captions of yard")
    announce = page.get_by_role("button", name="Announce captions of yard")
    assert await announce.get_attribute("aria-pressed") == "false"
    await page.keyboard.press("Space")
    assert await announce.get_attribute("aria-pressed") == "true"
    server.streams.get("yard").final("a cat sleeps")
    spoken = page.locator("article", has=page.get_by_role("heading", name="yard")).locator("[aria-live=polite]")
    await spoken.filter(has_text="a cat sleeps").wait_for(state="attached")
    await page.reload()
    await page.get_by_role("heading", name="yard").wait_for()
    await tab_to(page, "Add a camera")
    await page.keyboard.press("Enter")
    await page.get_by_role("dialog").wait_for()
    await page.keyboard.press("Escape")
    await page.get_by_role("dialog").wait_for(state="hidden")
    assert await page.evaluate(FOCUSED) == "Add a camera"


async def test_camera_is_added_and_removed_by_keyboard(browser: Browser, server: Server) -> None:
    page = await page_without_errors(browser, server.url)
    page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
    await page.get_by_role("heading", name="door").wait_for()
    await tab_to(page, "Add a camera")
    await page.keyboard.press("Enter")
    await page.get_by_role("dialog").wait_for()
    await page.keyboard.type("/etc/passwd")
    await page.keyboard.press("Enter")
    await page.get_by_role("alert").filter(has_text="this machine").wait_for()
    await page.get_by_role("textbox", name="Address", exact=True).fill("rtsp://yard/1")
    await page.keyboard.press("Tab")
    await page.keyboard.type("yard")
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="yard").wait_for()
    assert server.streams.names() == ["door", "yard"]
    await tab_to(page, "Remove yard")
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="yard").wait_for(state="detached")
    assert server.streams.names() == ["door"]


async def test_address_is_tested_before_it_is_added(browser: Browser, start: Start, tmp_path: Path) -> None:
    server = await start(allow_local=True)
    page = await page_without_errors(browser, server.url)
    await page.get_by_role("button", name="Add a camera").click()
    address = page.get_by_role("textbox", name="Address")
    sound = write_video(tmp_path / "sound.mp4", video=False, audio=True)
    for path, text in (
        (write_video(tmp_path / "film.mp4"), "It works: h264 160×96, 10 frames a second"),
        (sound, "It does not work: there is audio, but no video in it."),
        (tmp_path / "nothing.mp4", "there is no such file"),
    ):
        await address.fill(str(path))
        await page.get_by_role("button", name="Test", exact=True).click()
        await page.get_by_role("status").filter(has_text=text).wait_for()
    assert server.streams.names() == []


async def test_browser_camera_is_published_and_stopped(browser: Browser, server: Server) -> None:
    page = await page_without_errors(browser, server.url)
    await tab_to(page, "Use this browser")
    await page.keyboard.press("Enter")
    await page.get_by_role("dialog").wait_for()
    await page.keyboard.press("Control+A")
    await page.keyboard.type("tab")
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Stop camera").wait_for()
    source = server.streams.get("tab").source
    await until(lambda: len(source._waiting) > 0)
    await asyncio.to_thread(source.open)
    frame = await asyncio.to_thread(lambda: next(source.frames()))
    red, _, blue = frame.video_frame.to_ndarray(format="rgb24").mean(axis=(0, 1))
    assert blue > 150
    assert red < 80
    await tab_to(page, "Stop camera")
    await page.keyboard.press("Enter")
    await until(lambda: source._end is not None)
    assert page.errors == []


async def test_page_asks_for_token_and_hides_it(browser: Browser, start: Start) -> None:
    server = await start(publish_tokens=frozenset({"secret-1"}))
    await server.streams.add("door", "rtsp://door")
    page = await page_without_errors(browser, server.url)
    await page.get_by_role("textbox", name="Token").fill("secret-1")
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="door").wait_for()
    other = await page_without_errors(browser, f"{server.url}/?token=secret-1")
    await other.get_by_role("heading", name="door").wait_for()
    assert "secret" not in other.url
    assert other.errors == []


async def test_page_says_token_is_wrong(browser: Browser, start: Start) -> None:
    server = await start(publish_tokens=frozenset({"secret-1"}))
    page = await (await browser.new_context()).new_page()
    await page.goto(f"{server.url}/?token=wrong")
    await page.get_by_role("alert").get_by_text("This token is not accepted.").wait_for()
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Enter a token").click()
    await page.get_by_role("textbox", name="Token").fill("secret-1")
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="No cameras yet").wait_for()
    assert not await page.get_by_role("button", name="Enter a token").is_visible()


async def test_viewer_sees_no_forbidden_buttons(browser: Browser, start: Start) -> None:
    server = await start(publish_tokens=frozenset({"secret-1"}), view_tokens=frozenset({"secret-2"}))
    await server.streams.add("door", "rtsp://door")
    forbidden = "Add a camera", "Use this browser’s camera", "Edit door", "Remove door"
    for token, seen in (("secret-1", 1), ("secret-2", 0)):
        page = await page_without_errors(browser, f"{server.url}/?token={token}")
        await page.get_by_role("button", name="Announce captions of door").wait_for()
        await becomes_true(page, "document.body.dataset.access !== undefined")
        for name in forbidden:
            assert await page.get_by_role("button", name=name).count() == seen, name


async def test_empty_page_shows_first_step(browser: Browser, start: Start) -> None:
    server = await start()
    page = await page_without_errors(browser, server.url)
    await page.get_by_role("heading", name="No cameras yet").wait_for()
    await page.get_by_role("button", name="Add a camera").click()
    await page.get_by_role("textbox", name="Address").fill("rtsp://yard/1")
    await page.keyboard.press("Enter")
    await page.get_by_role("article").wait_for()
    assert not await page.get_by_role("heading", name="No cameras yet").is_visible()


async def test_failed_camera_folds_and_is_tried_again(browser: Browser, server: Server) -> None:
    door = server.streams.get("door")
    door.final("a man opens a door")
    page = await page_without_errors(browser, server.url)
    card = page.get_by_role("article")
    await card.locator(".caption", has_text="a man").wait_for()
    unfolded = await card.bounding_box()
    door.status(StreamState.FAILED, "401 Unauthorized: the camera refuses user and password")
    await page.get_by_role("heading", name="Not running").wait_for()
    folded = await card.bounding_box()
    assert unfolded is not None
    assert folded is not None
    assert folded["height"] < 0.4 * unfolded["height"]
    assert await card.get_by_text("401 Unauthorized").is_visible()
    await page.get_by_role("button", name="Try again: door").click()
    await page.get_by_role("heading", name="Not running").wait_for(state="hidden")
    assert server.streams.get("door") is not door


async def test_camera_is_edited(browser: Browser, server: Server) -> None:
    page = await page_without_errors(browser, server.url)
    await page.get_by_role("button", name="Edit door").click()
    address = page.get_by_role("textbox", name="Address")
    assert await address.input_value() == "rtsp://user:***@camera/1"
    await address.fill("rtsp://user:***@camera/2")
    await page.keyboard.press("Enter")
    await page.get_by_role("alert").filter(has_text="Type the password").wait_for()
    await address.fill("rtsp://camera/2")
    await page.get_by_label("Seconds between captions").last.fill("5")
    await page.keyboard.press("Enter")
    await page.get_by_role("dialog").wait_for(state="hidden")
    assert (server.streams.get("door").url, server.streams.get("door").every) == ("rtsp://camera/2", 5)


async def test_overload_and_caption_age_are_shown(browser: Browser, server: Server) -> None:
    door = server.streams.get("door")
    door.status(StreamState.LIVE)
    page = await page_without_errors(browser, server.url)
    await page.locator(".state", has_text="live").wait_for()
    door.final("a man opens a door")
    await page.get_by_text("caption up to date").wait_for()
    assert not await page.locator("#overload").is_visible()
    late = replace(LATENCY, queue=55_000.0, total=55_010.0)
    door.publish(door.track.final(door.at(), "a cat sleeps", -0.4, late))
    door.lag, door.effective_every = 55.01, 1.5
    await (
        page.get_by_role("status").get_by_text("Overloaded: captions are up to 55 s late on 1 of 1 cameras.").wait_for()
    )
    await page.get_by_text("55 s behind").wait_for()
    await page.get_by_text("caption 5").wait_for()
    await page.get_by_text("every 1.5 s, not 1 s").wait_for()


async def test_removed_own_camera_is_released(browser: Browser, server: Server) -> None:
    page = await page_without_errors(browser, server.url)
    await page.evaluate(
        """() => {
          const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          navigator.mediaDevices.getUserMedia = async (wish) => (window.media = await ask(wish));
        }"""
    )
    await page.get_by_role("button", name="Use this browser").click()
    await page.get_by_label("Name of the stream").fill("tab")
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Stop camera").wait_for()
    await page.get_by_role("heading", name="tab").wait_for()
    server.streams.get("tab").status(StreamState.ENDED, "stopped")
    await server.streams.remove("tab")
    # On a loaded machine the publisher may be lost before it is removed: either way the page shows the reason.
    note = page.get_by_role("status").get_by_text(re.compile("stream tab was removed|camera tab was lost"))
    await note.wait_for()
    assert await page.evaluate("media.getTracks().map((one) => one.readyState)") == ["ended"]


@pytest.mark.parametrize(("cameras", "width", "height"), [(12, 1280, 720), (30, 1280, 720), (30, 1080, 1920)])
async def test_wall_fits_screen(browser: Browser, server: Server, cameras: int, width: int, height: int) -> None:
    for number in range(1, cameras):
        await server.streams.add(f"camera{number}", "rtsp://camera")
    for name in server.streams.names():
        server.streams.get(name).final("a man in a red shirt rides a horse along the beach")
    page = await page_without_errors(browser, server.url, viewport={"width": width, "height": height})
    await becomes_true(page, f"document.querySelectorAll('article').length === {cameras}")
    await page.get_by_role("button", name="Wall").click()
    tiles = await page.evaluate(
        "[...document.querySelectorAll('.screen')].map((one) => one.getBoundingClientRect())"
        ".map(({ x, y, right, bottom }) => [x, y, right, bottom])"
    )
    assert max(bottom for *_, bottom in tiles) <= height
    assert max(right for *_, right, _ in tiles) <= width
    area = sum((right - x) * (bottom - y) for x, y, right, bottom in tiles)
    assert area > 0.6 * width * height
    assert await page.evaluate(
        "[...document.querySelectorAll('.screen .caption')]"
        ".every((one) => one.offsetHeight <= one.parentElement.offsetHeight)"
    )
    await page.reload()
    await becomes_true(page, "document.body.dataset.view === 'wall'")


async def test_captions_are_paused_and_resumed(browser: Browser, server: Server) -> None:
    door = server.streams.get("door")
    page = await page_without_errors(browser, server.url)
    await page.get_by_role("heading", name="door").wait_for()
    await until(lambda: server.app.state.broadcaster.present == 1)
    door.final("a man opens a door")
    await page.locator(".caption", has_text="a man").wait_for()
    await page.get_by_role("button", name="Pause captions").click()
    door.final("a cat sleeps")
    door.status(StreamState.STALLED, "no frame")
    await page.locator(".state", has_text="stalled").wait_for()
    assert await page.locator(".past li").count() == 1
    await page.get_by_role("button", name="Resume captions").click()
    assert await page.locator(".past li span").all_inner_texts() == ["a cat sleeps", "a man opens a door"]


async def test_page_works_under_path_prefix(browser: Browser, server: Server) -> None:
    door = server.streams.get("door")
    door.frame = SimpleNamespace(video_frame=av.VideoFrame(640, 360, "yuv420p"))
    door.status(StreamState.LIVE)
    async with PrefixProxy("/api/ingress/x-1", server.port).run() as proxy:
        page = await page_without_errors(browser, proxy.url)
        await page.locator(".state", has_text="live").wait_for()
        await until(lambda: server.app.state.broadcaster.present == 1)
        door.final("a man opens a door")
        await page.locator(".caption", has_text="a man opens a door").wait_for()
        await becomes_true(page, "document.querySelector('video').videoWidth > 0")
        await page.get_by_role("button", name="Add a camera").click()
        await page.get_by_role("textbox", name="Address", exact=True).fill("rtsp://yard/1")
        await page.keyboard.press("Enter")
        await page.get_by_role("heading", name="camera").wait_for()
        await page.get_by_role("button", name="Use this browser").click()
        await page.keyboard.press("Enter")
        await page.get_by_role("button", name="Stop camera").click()
        await until(lambda: len(server.app.state.whip_sessions) == 0)
        async with page.expect_download() as download:
            await page.get_by_role("link", name="SRT of door").evaluate("(one) => { one.download = ''; one.click(); }")
        assert "a man opens a door" in (await (await download.value).path()).read_text()
        for path, text in (("overlay?stream=door", "a man opens a door"), ("docs", "/whip/{name}")):
            other = await page_without_errors(browser, f"{proxy.url}{path}")
            await other.get_by_text(text, exact=True).first.wait_for()
            assert other.errors == []
        await other.get_by_role("link", name="streamcap").click()
        await other.get_by_role("heading", name="door").wait_for()
        assert page.errors == []
        assert proxy.strays == []


CONTRAST = """(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => channels(color).slice(0, 3).map((one) => one / 255)
    .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    .reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
  const solid = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((channels(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body *")]
    .filter((one) => one.checkVisibility() && !one.closest(".screen, .hidden-text, template, dialog:not([open])"))
    .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((one) => {
      const [light, dark] = [getComputedStyle(one).color, solid(one)].map(luminance).sort((a, b) => b - a);
      return [(light + 0.05) / (dark + 0.05), one.textContent.trim().slice(0, 40)];
    });
})()"""
"""An expression: contrast and beginning of every text on the page that does not lie on video."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_contrast(browser: Browser, server: Server, scheme: str) -> None:
    for name, state in zip(("yard", "street", "hall"), ("failed", "reconnecting", "ended"), strict=True):
        (await server.streams.add(name, "rtsp://camera")).status(StreamState(state), "why it is so")
    door = server.streams.get("door")
    door.status(StreamState.LIVE)
    late = replace(LATENCY, queue=55_000.0, total=55_010.0)
    door.publish(door.track.final(door.at(), "a cat sleeps", -0.4, late))
    door.lag = 55.01
    page = await page_without_errors(browser, server.url, color_scheme=scheme)
    await page.get_by_text("55 s behind").wait_for()
    await page.get_by_role("button", name="Add a camera").click()
    texts = await page.evaluate(CONTRAST)
    assert len(texts) > 40
    assert [text for text in texts if text[0] < 4.5] == []


async def test_api_page_shows_every_path(browser: Browser, server: Server) -> None:
    page = await page_without_errors(browser, f"{server.url}/docs")
    await page.get_by_text("/whip/{name}", exact=True).wait_for()
    assert page.errors == []
