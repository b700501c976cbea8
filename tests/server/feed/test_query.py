"""`read_query`; and hostile queries, names, bodies and headers, which never cause a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from streamcap.captions.subscription import SubscribeOptions
from streamcap.errors import InputError
from streamcap.server.app import create_app
from streamcap.server.feed.broadcaster import error_message
from streamcap.server.feed.query import event_number, read_query
from streamcap.server.options import ServerOptions
from tests.examples import examples
from tests.server.conftest import FakeStreams

pytestmark = pytest.mark.slow

KEYS = st.sampled_from(["stream", "since", "interim", "min_interval", "token", "mpegts", "x"])
VALUES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["1", "0", "door", "door:1", "door:1,yard:2", "-1", "1e400", "nan", "²", "١", "9" * 400, ",", ":"]),
)
PATHS = st.one_of(
    st.sampled_from(["/", "/streams", "/streams/door", "/captions/nobody", "/streams/door/hls/0.vtt", "/whip/door"]),
    st.builds(
        lambda head, name, tail: f"/{head}/{quote(name, safe='')}{tail}",
        st.sampled_from(["streams", "whip", "whep", "pages", "captions"]),
        st.text(min_size=1, max_size=20).filter(lambda name: name != "door"),
        st.sampled_from(["", "/captions.srt", "/hls/captions.m3u8", "/hls/1.vtt", "/x"]),
    ),
)
BODIES = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(
        st.sampled_from(["name", "url", "every", "x"]),
        st.one_of(st.none(), st.floats(), st.text(max_size=20), st.sampled_from(["rtsp://x", "http://[", "file:///x"])),
    ).map(lambda body: json.dumps(body).encode()),
)
TYPES = st.sampled_from(
    ["application/json", "application/sdp", "application/trickle-ice-sdpfrag", "text/plain", "", ";"]
)


@pytest.mark.parametrize(
    ("query", "options", "since"),
    [
        ("", SubscribeOptions(), None),
        ("stream=door&interim=0", SubscribeOptions(frozenset({"door"}), interim=False), None),
        ("stream=door,yard&stream=gate&since=7", SubscribeOptions(frozenset({"door", "yard", "gate"})), 7),
        ("since=door:4&since=yard:0&min_interval=0.5", SubscribeOptions(min_interval=0.5), {"door": 4, "yard": 0}),
    ],
)
def test_query_gives_subscribe_options(query: str, options: SubscribeOptions, since: object) -> None:
    request = read_query(QueryParams(query))
    assert (request.options, request.since) == (options, since)


@settings(deadline=None, derandomize=True, max_examples=examples(100))
@given(st.lists(st.tuples(KEYS, VALUES), max_size=5))
def test_any_query_is_parsed_or_refused(pairs: list[tuple[str, str]]) -> None:
    with contextlib.suppress(InputError):
        read_query(QueryParams(pairs))


@settings(deadline=None, derandomize=True, max_examples=examples(100))
@given(VALUES)
def test_any_event_id_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        assert event_number(text, "Last-Event-ID") >= 0


@settings(deadline=None, derandomize=True, max_examples=examples(100))
@given(st.one_of(st.text(max_size=40), st.binary(max_size=40), st.sampled_from(["{}", "1", "null", "[" * 4000])))
def test_client_message_gives_valid_close_reason(message: str | bytes) -> None:
    code, reason = error_message({"text": message} if isinstance(message, str) else {"bytes": message})
    assert code in (1003, 1007, 1008)
    assert 0 < len(reason.encode()) <= 123


@pytest.fixture(scope="module")
def application() -> Any:
    streams = FakeStreams()
    asyncio.run(streams.add("door", "rtsp://door"))
    return create_app(streams, ServerOptions())  # type: ignore[arg-type]


@settings(deadline=None, derandomize=True, max_examples=examples(150))
@given(
    st.sampled_from(["GET", "POST", "DELETE", "PATCH"]),
    PATHS,
    st.lists(st.tuples(KEYS, VALUES), max_size=3),
    BODIES,
    TYPES,
)
def test_any_request_gets_status_below_500(
    application: Any, method: str, path: str, query: list[tuple[str, str]], body: bytes, content_type: str
) -> None:
    async def ask() -> httpx.Response:
        # Exceptions of the application are raised here.
        transport = httpx.ASGITransport(application, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            content = b"" if method == "GET" else body
            headers = {"Content-Type": content_type}
            return await client.request(method, path, params=query, content=content, headers=headers)

    answer = asyncio.run(ask())
    assert answer.status_code < 500
    if answer.status_code >= 400:
        assert isinstance(answer.json()["detail"], str)
        assert "\n" not in answer.json()["detail"]
