"""The overlay in a real browser."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from PIL import Image
from playwright.async_api import Browser, Page

from testbed.browser import becomes_true, chromium, page_without_errors
from tests.server.conftest import Server, Start, until

pytestmark = pytest.mark.browser

LONG = (
    "a very long sentence about three men in red shirts who run over the wide green grass beside a truck that "
    "carries the furniture of an internationalization-and-accessibility conference"
)
SPEECH = """
window.said = [];
window.later = 0;
const now = performance.now.bind(performance);
performance.now = () => now() + window.later;
window.SpeechSynthesisUtterance = class { constructor(text) { this.text = text; } };
Object.defineProperty(window, "speechSynthesis", {
  value: {
    speak(one) { said.push(one); },
    cancel() { window.cancelled = true; },
    getVoices() { return [{ name: "Ada", lang: "en-GB" }]; },
  },
});
"""
"""Speech synthesis whose duration the test controls."""
ROWS = """(() => {
  const range = document.createRange();
  const words = document.querySelector(".line span").firstChild;
  const rows = new Map();
  for (let at = 0; at < words.length; at += 1) {
    range.setStart(words, at);
    range.setEnd(words, at + 1);
    const top = Math.round(range.getBoundingClientRect().top);
    rows.set(top, (rows.get(top) ?? "") + words.data[at]);
  }
  return [...rows.values()].map((row) => row.trim());
})()"""
"""An expression: the rows of the first caption as they are broken on screen."""


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


async def overlay(browser: Browser, server: Server, query: str, **context: object) -> Page:
    """The overlay, once its feed is connected."""
    page = await page_without_errors(browser, f"{server.url}/overlay?{query}", **context)
    await until(lambda: server.app.state.broadcaster.present >= 1)
    return page


async def test_overlay_is_transparent_and_holds_current_caption(browser: Browser, server: Server) -> None:
    door = server.streams.get("door")
    query = "stream=door&hold=3&size=40&color=ffff00&background=rgb(0,0,80)&position=top-left&lines=1"
    page = await page_without_errors(browser, f"{server.url}/overlay?{query}", viewport={"width": 640, "height": 360})
    await until(lambda: server.app.state.broadcaster.present == 1)
    door.interim("a very")
    await page.locator(".line[data-final=false]", has_text="a very").wait_for()
    door.final("a very long sentence about a man with a dog that does not fit on one line")
    line = page.locator(".line[data-final=true]")
    await line.wait_for()
    await page.wait_for_timeout(400)  # its fade
    shot = Image.open(io.BytesIO(await page.screenshot(omit_background=True)))
    assert shot.getpixel((620, 340)) == (0, 0, 0, 0)
    box = await line.bounding_box()
    assert box is not None
    assert box["x"] < 60
    assert box["y"] < 60
    assert box["height"] < 80
    assert shot.getpixel((int(box["x"]) + 4, int(box["y"] + box["height"] / 2)))[:3] == (0, 0, 80)
    assert (255, 255, 0) in {color[:3] for _, color in shot.getcolors(1 << 20)}
    await page.locator(".line[data-shown=false]").wait_for(state="attached")
    door.extend()
    await page.locator(".line[data-shown=true]").wait_for()
    assert await page.get_by_role("log").text_content() == door.track.last.text
    assert page.errors == []


async def test_overlay_speaks_finals_and_shortens_if_behind(browser: Browser, server: Server) -> None:
    door = server.streams.get("door")
    page = await (await browser.new_context()).new_page()
    await page.add_init_script(SPEECH)
    await page.goto(f"{server.url}/overlay?stream=door&speak=1")
    await until(lambda: server.app.state.broadcaster.present == 1)
    for text in ("a man opens a door", "a cat", "a brown dog and a small child run over the wide green grass"):
        door.interim(text[:5])
        door.final(text)
    await page.locator(".line", has_text="a brown dog").wait_for()
    assert await page.evaluate("said.map((one) => one.text)") == ["a man opens a door"]
    await page.evaluate("said[0].onend()")
    assert await page.evaluate("said.map((one) => one.text)") == ["a man opens a door", "brown dog"]
    assert await page.evaluate("said[1].rate > 1")
    # An expired caption is not spoken; after a failed utterance the next one is spoken in full.
    door.final("a horse runs on a road")
    await page.locator(".line", has_text="a horse").wait_for()
    await page.evaluate("later = 7000; said[1].onend()")
    door.final("three ducks swim")
    await becomes_true(page, "said.length === 3")
    door.final("a bus drives in the snow")
    await page.locator(".line", has_text="a bus").wait_for()
    await page.evaluate("said[2].onerror()")
    assert await page.evaluate("said.map((one) => one.text).slice(2)") == [
        "three ducks swim",
        "bus drives in the snow",
    ]
    assert await page.evaluate("[said[2].rate, said[2].lang]") == [1, "en"]


PHONE = {"width": 320, "height": 640}
PORTRAIT = {"width": 1080, "height": 1920}
LANDSCAPE = {"width": 1280, "height": 720}


@pytest.mark.parametrize("viewport", [PHONE, PORTRAIT, LANDSCAPE], ids=["phone", "portrait", "landscape"])
async def test_overlay_fits_long_caption(browser: Browser, server: Server, viewport: dict[str, int]) -> None:
    page = await overlay(browser, server, "stream=door", viewport=viewport)
    server.streams.get("door").final(LONG)
    await page.locator(".line[data-shown=true]").wait_for()
    rows = await page.evaluate(ROWS)
    assert "".join("".join(rows).split()) == LONG.replace(" ", "")
    # No row ends in an article: it would be read as a pause.
    assert not [row for row in rows if row.split()[-1] in ("a", "an", "the")]
    sides = await page.evaluate(
        """[".line", ".line span"].map((one) => document.querySelector(one).getBoundingClientRect())
        .map(({ left, top, right, bottom }) => [left, top, innerWidth - right, innerHeight - bottom])"""
    )
    assert min(side for box in sides for side in box) >= 0, sides
    size = float((await page.evaluate("getComputedStyle(document.querySelector('.line')).fontSize"))[:-2])
    normal = max(20, 0.05 * min(viewport.values()))
    assert 15 <= size <= normal
    # The font shrinks first, to a readable minimum; then rows are added.
    assert len(rows) <= 2 or size <= 1.1 * max(16, 0.5 * normal)
    assert page.errors == []  # type: ignore[attr-defined]


async def test_overlay_breaks_word_wider_than_screen(browser: Browser, server: Server) -> None:
    page = await overlay(browser, server, "stream=door&size=60", viewport=PHONE)
    server.streams.get("door").final("Donaudampfschifffahrtsgesellschaftskapitän" * 2)
    await page.locator(".line[data-shown=true]").wait_for()
    box = await page.locator(".line").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]
    assert len(await page.evaluate(ROWS)) > 1


async def test_overlay_fits_many_streams(browser: Browser, server: Server) -> None:
    for number in range(11):
        await server.streams.add(f"camera{number}", "rtsp://camera")
    page = await overlay(browser, server, "", viewport=LANDSCAPE)
    for name in server.streams.names():
        server.streams.get(name).final("a man in a red shirt rides a horse along the beach")
    await becomes_true(page, "document.querySelectorAll('.line[data-shown=true]').length === 12")
    top = await page.evaluate("Math.min(...[...document.querySelectorAll('.line')].map((one) => one.offsetTop))")
    assert top >= 0


async def test_overlay_log_is_there_before_text(browser: Browser, server: Server) -> None:
    page = await overlay(browser, server, "stream=door")
    log = page.get_by_role("log", name="Captions")
    assert await log.text_content() == ""
    assert await log.get_attribute("aria-live") == "polite"
    door = server.streams.get("door")
    door.interim("a man")
    door.final("a man opens a door")
    await log.get_by_text("a man opens a door").wait_for(state="attached")
    door.final("a cat sleeps")
    await log.get_by_text("a cat sleeps").wait_for(state="attached")
    assert await log.locator("p").all_text_contents() == ["a man opens a door", "a cat sleeps"]


@pytest.mark.parametrize("doubt", [True, False], ids=["shown", "off"])
async def test_overlay_shows_doubt_gently(browser: Browser, server: Server, doubt: bool) -> None:
    page = await overlay(browser, server, "stream=door" if doubt else "stream=door&doubt=0")
    door = server.streams.get("door")
    door.final("a man opens a door", 0.95)
    line = page.locator(".line[data-doubt=false] span", has_text="a man opens a door")
    await line.wait_for()
    sure = await line.evaluate("(one) => getComputedStyle(one).opacity")
    door.final("a dog runs", 0.7)
    said = "perhaps a dog runs" if doubt else "a dog runs"
    line = page.locator(f".line[data-doubt={str(doubt).lower()}] span")
    await becomes_true(page, "document.querySelector('.line span').textContent.includes('runs')")
    assert (await line.inner_text()).replace("\u00a0", " ") == said
    assert (await line.evaluate("(one) => getComputedStyle(one).opacity") < sure) is doubt
    await page.get_by_role("log").get_by_text(said, exact=True).wait_for(state="attached")
    assert page.errors == []  # type: ignore[attr-defined]


async def test_overlay_asks_for_token(browser: Browser, start: Start) -> None:
    server = await start(view_tokens=frozenset({"secret-1"}))
    await server.streams.add("door", "rtsp://door")
    page = await (await browser.new_context()).new_page()
    await page.goto(f"{server.url}/overlay?stream=door")
    await page.get_by_text("This service needs a token.").wait_for()
    await page.get_by_label("Token").fill("wrong")
    await page.keyboard.press("Enter")
    await page.get_by_text("This token is not accepted.").wait_for()
    await page.get_by_label("Token").fill("secret-1")
    await page.keyboard.press("Enter")
    await until(lambda: server.app.state.broadcaster.present == 1)
    server.streams.get("door").final("a man opens a door")
    await page.locator(".line", has_text="a man opens a door").wait_for()
    assert not await page.locator("#ask").is_visible()
    assert not await page.locator("#notice").is_visible()


async def test_overlay_tab_inherits_token(browser: Browser, start: Start) -> None:
    server = await start(view_tokens=frozenset({"secret-1"}))
    await server.streams.add("door", "rtsp://door")
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{server.url}/?token=secret-1")
    async with context.expect_page() as opened:
        await page.get_by_role("link", name="Overlay of door").click()
    tab = await opened.value
    await until(lambda: server.app.state.broadcaster.present == 2)
    server.streams.get("door").final("a man opens a door")
    await tab.locator(".line", has_text="a man opens a door").wait_for()
    assert "secret" not in tab.url


@pytest.mark.parametrize("obs", [False, True], ids=["browser", "obs"])
async def test_overlay_reports_unknown_stream(browser: Browser, server: Server, obs: bool) -> None:
    page = await (await browser.new_context()).new_page()
    warnings: list[str] = []
    page.on("console", lambda message: warnings.append(message.text) if message.type == "warning" else None)
    if obs:
        await page.add_init_script("window.obsstudio = {};")
    await page.goto(f"{server.url}/overlay?stream=yard")
    if obs:
        await until(lambda: any("no stream named yard" in text for text in warnings))
        assert not await page.locator(".panel").locator("visible=true").count()
    else:
        await page.get_by_role("status").get_by_text("There is no stream named yard.").wait_for()
    # Added later, it is shown without a reload.
    await server.streams.add("yard", "rtsp://yard")
    await until(lambda: server.app.state.broadcaster.present == 1)
    server.streams.get("yard").final("a cat sleeps")
    await page.locator(".line", has_text="a cat sleeps").wait_for()
    assert not await page.locator("#notice").is_visible()


async def test_overlay_reports_lost_connection(browser: Browser, start: Start) -> None:
    server = await start()
    await server.streams.add("door", "rtsp://door")
    page = await (await browser.new_context()).new_page()
    await page.goto(f"{server.url}/overlay?stream=door")
    await until(lambda: server.app.state.broadcaster.present == 1)
    assert not await page.locator("#notice").is_visible()
    server.stop.set()
    await page.get_by_role("status").get_by_text("Connection lost. Reconnecting.").wait_for()


async def test_overlay_speech_is_paused_and_remembered(browser: Browser, server: Server) -> None:
    door = server.streams.get("door")
    context = await browser.new_context()
    page = await context.new_page()
    await page.add_init_script(SPEECH)
    await page.goto(f"{server.url}/overlay?stream=door&speak=1")
    await until(lambda: server.app.state.broadcaster.present == 1)
    # One voice at a time: the live region is silent while the page speaks.
    assert await page.locator("#log").get_attribute("aria-live") == "off"
    await page.get_by_label("Speed").fill("1.5")
    await page.get_by_label("Voice").select_option("Ada")
    door.final("a man opens a door")
    await becomes_true(page, "said.length === 1")
    assert await page.evaluate("[said[0].rate, said[0].lang]") == [1.5, "en-GB"]
    await page.get_by_role("button", name="Pause speech").click()
    assert await page.evaluate("cancelled")
    assert await page.locator("#log").get_attribute("aria-live") == "polite"
    door.final("a cat sleeps")
    await page.get_by_role("log").get_by_text("a cat sleeps").wait_for(state="attached")
    await page.reload()
    start = page.get_by_role("button", name="Start speech")
    await start.wait_for()
    assert await page.evaluate("[said.length, rate.value, voices.value]") == [0, "1.5", "Ada"]
    assert await page.locator("#log").get_attribute("aria-live") == "polite"
    await start.focus()
    await page.keyboard.press("Enter")
    door.final("a dog runs")
    await becomes_true(page, "said.length > 0 && said[said.length - 1].text === 'a dog runs'")


async def test_overlay_offers_start_when_speech_is_blocked(browser: Browser, server: Server) -> None:
    page = await (await browser.new_context()).new_page()
    await page.add_init_script(SPEECH)
    await page.goto(f"{server.url}/overlay?stream=door&speak=1")
    await until(lambda: server.app.state.broadcaster.present == 1)
    server.streams.get("door").final("a man opens a door")
    await becomes_true(page, "said.length === 1")
    await page.evaluate("said[0].onerror({ error: 'not-allowed' })")
    assert await page.locator("#log").get_attribute("aria-live") == "polite"
    await page.reload()
    # A refusal by the browser is not stored as the choice of the visitor.
    await page.get_by_role("button", name="Pause speech").wait_for()


async def test_overlay_in_obs_shows_no_controls(browser: Browser, server: Server) -> None:
    page = await (await browser.new_context()).new_page()
    await page.add_init_script(SPEECH + "window.obsstudio = {};")
    await page.goto(f"{server.url}/overlay?stream=door&speak=1&rate=1.2&voice=Ada")
    await until(lambda: server.app.state.broadcaster.present == 1)
    server.streams.get("door").final("a man opens a door")
    await becomes_true(page, "said.length === 1")
    assert await page.evaluate("[said[0].rate, said[0].lang]") == [1.2, "en-GB"]
    assert not await page.locator(".panel").locator("visible=true").count()
