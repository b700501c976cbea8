"""The feed as a real browser reads it: EventSource, and the page's own reconnecting websocket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from streamcap.captions.subscription import CloseReason
from testbed.browser import becomes_true, chromium, page_without_errors
from tests.server.conftest import Server, until

pytestmark = pytest.mark.browser


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


async def test_event_source_resumes_after_disconnect(browser: Browser, server: Server) -> None:
    door = server.streams.get("door")
    page = await page_without_errors(browser, f"{server.url}/docs")
    await page.evaluate(
        """() => {
          window.got = [];
          const source = new EventSource("/captions/door");
          source.onmessage = ({ data, lastEventId }) => got.push([JSON.parse(data).text ?? "", lastEventId]);
        }"""
    )
    await until(lambda: server.app.state.broadcaster.present == 1)
    door.final("one")
    await becomes_true(page, "got.length === 2")
    (subscription,) = server.app.state.broadcaster.hub._subscriptions.values()
    subscription.close(CloseReason.STOPPING, "as if the line were cut")
    door.final("two")
    await becomes_true(page, "got.length === 4")
    door.final("three")
    await becomes_true(page, "got.length === 5")
    # `hello` has no seq, so the last seq stays.
    assert await page.evaluate("got") == [["", ""], ["one", "1"], ["", "1"], ["two", "2"], ["three", "3"]]


async def test_page_feed_resumes_until_refused(browser: Browser, server: Server) -> None:
    page = await page_without_errors(browser, f"{server.url}/docs")
    asked = await page.evaluate(
        """async () => {
          const later = window.setTimeout;
          window.setTimeout = (act, milliseconds) => later(act, Math.min(milliseconds, 10));
          const sockets = [];
          let ready = false;
          window.WebSocket = class {
            constructor(url) { this.url = url; sockets.push(this); }
            close() {}
          };
          window.fetch = async () => ({ ok: ready, status: ready ? 200 : 503, json: async () => [] });
          const { Feed } = await import("/pages/feed.js");
          const feed = new Feed({ on: () => {} });
          const tried = async (times) => { while (sockets.length < times) await new Promise((go) => later(go, 10)); };
          sockets[0].onopen();
          sockets[0].onmessage({ data: '{"stream":"door","seq":7}' });
          sockets[0].onclose({ code: 1006 });
          for (let times = 2; times <= 4; times += 1) {
            await tried(times);
            ready = times > 2;
            sockets[times - 1].onclose({ code: 1006 });
          }
          await tried(5);
          feed.close();
          return sockets.map((one) => one.url.searchParams.get("since"));
        }"""
    )
    # Offline, then online and refusing twice: only then is the request itself wrong.
    assert asked == [None, "door:7", "door:7", "door:7", None]
