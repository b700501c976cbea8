"""Hypothesis strategies for hostile input: valid grammar with random errors."""

from __future__ import annotations

import json
import struct
from typing import Any

from hypothesis import strategies as st

from streamcap.captions.event import encode
from tests.captions.fakes import caption

ANY_TEXT = st.text(
    st.characters(codec=None) | st.sampled_from("\x00\x1b\r\n\u202e\u2028\u2029\x85\ud800\udfff<>&-\u200d "),
    max_size=200,
)
NASTY = st.sampled_from(
    [
        *("", "0", "-1", "1", "41", "1e999", "NaN", "Infinity", "9" * 19, "9" * 5000, "0x10", "1.5", "true", "null"),
        *("%00", "%", "%zz", "%ff%fe", "%ED%A0%80", "%2e%2e%2f", "..", "../../etc/passwd", "%0d%0aX: y", "door", "*"),
        *(
            "a" * 300,
            "é",
            "\x7f",
            "door:1",
            "door:",
            ":1",
            ",,,",
            "door,door",
            "'",
            '"',
            "<script>",
            "{}",
            "[[",
            "+",
            ";",
        ),
    ]
)
LATIN = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=60)
WORD = NASTY | LATIN

PATHS = [
    *("/", "/overlay", "/docs", "/openapi.json", "/healthz", "/readyz", "/metrics", "/streams", "/streams/door"),
    *("/streams/door/captions.srt", "/streams/door/captions.vtt", "/streams/door/hls/captions.m3u8"),
    *("/streams/door/hls/0.vtt", "/captions", "/captions/door", "/whip/door", "/whep/door", "/whep/door/x", "/pages/"),
    *("/pages/index.js", "/whip/tab/x"),
]
PATH = (
    st.sampled_from(PATHS)
    | st.builds(lambda path, word: f"{path}/{word}", st.sampled_from(PATHS), WORD)
    | st.lists(WORD, max_size=4).map(lambda words: "/" + "/".join(words))
    | WORD
)
KEYS = st.sampled_from(
    ["stream", "since", "interim", "min_interval", "token", "%74oken", "mpegts", "x", "", "stream[]"]
)
QUERY = st.lists(st.builds(lambda key, value: f"{key}={value}", KEYS, WORD) | WORD, max_size=6).map("&".join)
TARGET = st.builds(lambda path, query: f"{path}?{query}" if query else path, PATH, QUERY)
HEADERS: dict[str, list[str]] = {
    "Host": ["127.0.0.1", "localhost", "evil.example", "[::1", "[]:", "127.0.0.1:99999", ""],
    "Origin": ["null", "http://127.0.0.1", "http://[", "https://evil.example", "://", "http://127.0.0.1:x"],
    "Authorization": ["Bearer x", "bearer", "Basic eDp5", "Bearer \xe9", "Bearer  "],
    "Content-Type": [
        "application/json",
        "application/sdp",
        "application/trickle-ice-sdpfrag",
        "text/plain",
        ";;",
        "a/b; x=\xff",
    ],
    "Content-Length": ["0", "5", "-1", "99999999999999999999", "5, 5", "+5", "0x5", "1 2"],
    "Transfer-Encoding": ["chunked", "gzip", "gzip, chunked", "chunked, chunked", "identity"],
    "Connection": ["close", "keep-alive", "Upgrade", "upgrade, close"],
    "Upgrade": ["websocket", "h2c", "WebSocket", "websocket, x"],
    "Sec-WebSocket-Key": ["dGhlIHNhbXBsZSBub25jZQ==", "x", ""],
    "Sec-WebSocket-Version": ["13", "8", "x"],
    "Sec-WebSocket-Extensions": ["permessage-deflate", "permessage-deflate; server_max_window_bits=99", ";;=,"],
    "Sec-WebSocket-Protocol": ["x", ",,", "a, b"],
    "Range": ["bytes=0-1", "bytes=-1", "bytes=5-1", "bytes=" + "0-1," * 200, "x=1", "bytes=99999999999999999999-"],
    "If-None-Match": ['"x"', "*", "x"],
    "If-Match": ['"x"', "*"],
    "If-Modified-Since": ["Thu, 01 Jan 1970 00:00:00 GMT", "yesterday", "Thu, 99 Jan 99999 00:00:00 GMT"],
    "Last-Event-ID": ["1", "-1", "9" * 30, "x"],
    "Cookie": ["token=x", "=;=;"],
    "X-Forwarded-Prefix": ["/cams", "//evil.example", "/a\tb", "x", "/" + "a" * 500],
    "Access-Control-Request-Method": ["POST", "x"],
    "Expect": ["100-continue", "x"],
    "Accept-Encoding": ["gzip", "*;q=x"],
}
HEADER = st.sampled_from(sorted(HEADERS)).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from(HEADERS[name]) | WORD)
) | st.tuples(WORD, WORD)
METHOD = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "G\x00T", ""])

OFFER = (
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\na=msid-semantic:WMS *\r\n"
    "m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=sendonly\r\na=mid:0\r\na=rtcp-mux\r\n"
    "a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=ssrc-group:FID 1 2\r\na=ssrc:1 cname:x\r\n"
    "a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack pli\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n"
    "a=candidate:1 1 udp 2130706431 127.0.0.1 9 typ host\r\na=end-of-candidates\r\na=ice-ufrag:abcd\r\n"
    "a=ice-pwd:0123456789abcdef0123456789\r\n"
    f"a=fingerprint:sha-256 {':'.join(['AB'] * 32)}\r\na=setup:actpass\r\n"
)


@st.composite
def mutated(draw: st.DrawFn, text: bytes, joint: bytes) -> bytes:
    """`text` with some of its parts (between `joint`s) changed, doubled, dropped, or replaced by hostile text."""
    parts = text.split(joint)
    for _ in range(draw(st.integers(0, 6))):
        place = draw(st.integers(0, len(parts) - 1))
        word = draw(WORD).encode(errors="replace")
        head, colon, _ = parts[place].partition(b":")
        choices = [[], [parts[place]] * 2, [word], [head + colon + word], [parts[place][::-1]], [parts[place] + word]]
        parts[place : place + 1] = draw(st.sampled_from(choices))
        parts = parts or [b""]
    return joint.join(parts)


SDP = mutated(OFFER.encode(), b"\r\n")
JSON_VALUE: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | NASTY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["url", "name", "every", "x"]), inner),
    max_leaves=8,
)
BODY = (
    st.fixed_dictionaries({"url": WORD}, optional={"name": WORD | JSON_VALUE, "every": JSON_VALUE})
    .map(json.dumps)
    .map(str.encode)
    | JSON_VALUE.map(json.dumps).map(str.encode)
    | SDP
    | st.binary(max_size=200)
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One HTTP request, mostly well formed."""
    headers = draw(st.lists(HEADER, max_size=6))
    body = draw(st.just(b"") | BODY)
    if draw(st.integers(0, 3)):
        headers.insert(0, ("Host", "127.0.0.1"))
    if draw(st.booleans()):
        headers += [("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
        headers += [("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]
    elif body and draw(st.integers(0, 3)):
        headers += [("Content-Length", str(len(body)))]
        headers += [("Content-Type", draw(st.sampled_from(HEADERS["Content-Type"])))]
    version = draw(st.sampled_from(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/2", "HTTP/9.9", ""]))
    lines = [f"{draw(METHOD)} {draw(TARGET)} {version}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + body


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """One websocket frame of a client, complete or truncated."""
    payload = draw(st.binary(max_size=130) | ANY_TEXT.map(lambda text: text.encode(errors="replace")))
    head = draw(st.sampled_from([0x80, 0x00, 0xC0, 0xF0])) | draw(st.integers(0, 15))
    masked = draw(st.sampled_from([0x80] * 4 + [0]))
    length = draw(st.sampled_from([len(payload)] * 4 + [0, 125, 126, 127]))
    size = struct.pack("!BB", head, masked | min(length, 127))
    if length == 126:
        size += struct.pack("!H", draw(st.sampled_from([len(payload), 0, 65_535])))
    elif length == 127:
        size += struct.pack("!Q", draw(st.sampled_from([len(payload), 2**40, 2**63, 2**64 - 1])))
    return size + (b"\x00" * 4 if masked else b"") + payload


LINE = mutated(encode(41, caption()).text.encode(), b",")
VALUE_LINE = st.builds(
    lambda key, value: json.dumps(json.loads(encode(41, caption()).text) | {key: value}).encode(),
    st.sampled_from(sorted(json.loads(encode(41, caption()).text))),
    JSON_VALUE,
)
JSONL = st.lists(LINE | VALUE_LINE | st.binary(max_size=100), max_size=6).map(b"\n".join)
VTT = mutated(
    b"WEBVTT\n\n00:00:01.000 --> 00:00:02.500\na dog\n\n00:00:02.500 --> 00:00:04.000\na cat\n", b"\n"
) | mutated(b"WEBVTT\n\n00:00:01.000 --> 00:00:02.500\na dog\n\n", b":")
SCHEMES = ["rtsp", "rtsps", "rtmp", "srt", "http", "https", "file", "webcam", "scenes", "whip", "gopher", "", "RTSP"]
OPTION = st.sampled_from(["seed", "size", "fps", "mode", "latency"])
OPTIONS = st.lists(st.builds(lambda key, value: f"{key}={value}", OPTION, WORD), max_size=4).map("&".join)
URL = (
    st.builds(
        lambda scheme, slashes, user, host, port, path, query: f"{scheme}:{slashes}{user}{host}{port}/{path}?{query}",
        st.sampled_from(SCHEMES),
        st.sampled_from(["//", "/", "", "///"]),
        st.sampled_from(["", "u:p@", "u@", ":@", "u:p/w@", "u:p@ss@"]),
        st.sampled_from(["cam", "", "[::1]", "[", "]", "127.0.0.1", "a" * 300, "xn--", "é", "-", "0x7f.1"]),
        st.sampled_from(["", ":", ":554", ":99999", ":x", ":-1", ":٣"]),
        WORD,
        QUERY | OPTIONS,
    )
    | ANY_TEXT
)
