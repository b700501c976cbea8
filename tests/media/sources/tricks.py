"""Files that refer to another file or server: one function per format, with the address to refer to."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

_HEAD = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:1\n"
_END = "#EXT-X-ENDLIST\n"


def hls(target: str) -> bytes:
    return f"{_HEAD}#EXTINF:1,\n{target}\n{_END}".encode()


def hls_master(target: str) -> bytes:
    return f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=9\n{target}\n".encode()


def hls_key(target: str) -> bytes:
    key = f'#EXT-X-KEY:METHOD=AES-128,URI="{target}",IV=0x00000000000000000000000000000001\n'
    return f"{_HEAD}{key}#EXTINF:1,\nfirst.ts\n{_END}".encode()


def hls_map(target: str) -> bytes:
    return f'{_HEAD}#EXT-X-MAP:URI="{target}"\n#EXTINF:1,\nfirst.ts\n{_END}'.encode()


def ffconcat(target: str) -> bytes:
    return f"ffconcat version 1.0\nfile '{target}'\n".encode()


def sdp(target: str) -> bytes:
    host, _, port = target.rpartition("/")[0].rpartition("//")[2].partition(":")
    media = f"m=video {port or 9} RTP/AVP 96\na=rtpmap:96 H264/90000\na=control:{target}\n"
    return f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 {host or '127.0.0.1'}\nt=0 0\n{media}".encode()


def dash(target: str) -> bytes:
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" mediaPresentationDuration="PT1S">'
        '<Period duration="PT1S"><AdaptationSet mimeType="video/mp4" contentType="video">'
        '<Representation id="1" bandwidth="9" codecs="avc1.42c00a" width="64" height="48">'
        f"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    ).encode()


def mov_reference(target: str, movie: bytes) -> bytes:
    """`movie` with a reference to samples in another file."""
    path = target.removeprefix("file:").encode()
    name = path.rpartition(b"/")[2]
    record = bytes(10) + bytes(28) + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    record += struct.pack(">hh", 0, 0) + bytes(16) + struct.pack(">hH", 2, len(path)) + path + b"\0" * (len(path) % 2)
    record += struct.pack(">hH", -1, 0)
    record = record.ljust(160, b"\0")
    entry = struct.pack(">I4sI", 12 + len(record), b"alis", 0) + record
    return _replace_box(movie, (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"), bytes(3) + b"\0\0\0\0\1" + entry)


def _replace_box(data: bytes, path: tuple[bytes, ...], body: bytes) -> bytes:
    out = b""
    for kind, content in _boxes(data):
        if kind == path[0]:
            content = body if len(path) == 1 else _replace_box(content, path[1:], body)
        out += struct.pack(">I4s", 8 + len(content), kind) + content
    return out


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + size]
        at += size


FORMATS: dict[str, Callable[[str], bytes]] = {
    "hls": hls,
    "hls master": hls_master,
    "hls key": hls_key,
    "hls map": hls_map,
    "ffconcat": ffconcat,
    "sdp": sdp,
    "dash": dash,
}


def file_targets(file: Path) -> list[str]:
    """All ways to name a local file."""
    ways = (
        "{0}",
        "file:{0}",
        "file://{0}",
        "subfile,,start,0,end,0,,:{0}",
        "concat:{0}|{0}",
        "cache:{0}",
        "async:{0}",
        "crypto:{0}",
    )
    return [way.format(file) for way in ways]


def network_targets(address: str) -> list[str]:
    """All ways to name a server."""
    ways = ("http://{0}/x.ts", "tcp://{0}", "rtmp://{0}/a/b", "rtsp://{0}/x", "ftp://{0}/x", "gopher://{0}/x")
    return [way.format(address) for way in ways]
