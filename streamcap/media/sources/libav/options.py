"""How libav opens each scheme: options, format, transport, and addresses that were checked."""

from __future__ import annotations

from urllib.parse import urlsplit

from streamcap.media.containers import FILE_FORMATS, FILE_OPTIONS
from streamcap.media.sources.address import ForbiddenHostError, HostGuard
from streamcap.media.sources.base import SourceRefused
from streamcap.redact import redact

# Opens at the live edge in about 0.1 s: the SDP has everything that probing would find.
_LOW_LATENCY = {"probesize": "32", "fpsprobesize": "0", "analyzeduration": "0"}
# Each scheme has a whitelist of protocols, which also applies to nested URLs (segments, keys).
_RTSP = {"rtsp_transport": "tcp", "protocol_whitelist": "tcp", **_LOW_LATENCY}
RTSP_UDP = {"rtsp_transport": "udp", "protocol_whitelist": "tcp,rtp,udp"}
_RTMP = {"fflags": "nobuffer", "rtmp_live": "live", "analyzeduration": "500000", "protocol_whitelist": "rtmp,tcp"}
_DATAGRAMS = {"fflags": "nobuffer", "analyzeduration": "1000000"}
HTTP_OPTIONS = {
    "fpsprobesize": "0",
    "analyzeduration": "1000000",
    "protocol_whitelist": "http,https,httpproxy,tcp,tls,crypto",
    "format_whitelist": f"hls,webvtt,{FILE_FORMATS}",
}
LIBAV_OPTIONS: dict[str, dict[str, str]] = {
    "rtsp": _RTSP,
    "rtsps": {**_RTSP, "protocol_whitelist": "tls,tcp"},
    "rtmp": _RTMP,
    "rtmps": {**_RTMP, "protocol_whitelist": "rtmps,tls,tcp"},
    "srt": {"fflags": "nobuffer", "analyzeduration": "500000", "protocol_whitelist": "srt"},
    "udp": {**_DATAGRAMS, "protocol_whitelist": "udp"},
    "rtp": {**_DATAGRAMS, "protocol_whitelist": "rtp,udp"},
    "http": HTTP_OPTIONS,
    "https": HTTP_OPTIONS,
    "file": FILE_OPTIONS,
    "webcam": {"protocol_whitelist": ""},
}
# The one format of each scheme. HTTP and files have several, in `format_whitelist`.
FORMATS = {
    "rtsp": "rtsp",
    "rtsps": "rtsp",
    "rtmp": "flv",
    "rtmps": "flv",
    "srt": "mpegts",
    "udp": "mpegts",
    "rtp": "rtp",
    "webcam": "v4l2",
}
# libav would resolve the host of these itself: it gets the address that was checked instead.
PINNED = ("rtmp", "rtmps", "srt")
TRANSPORTS = {
    "rtsp": "RTP over TCP",
    "rtsps": "RTP over TLS",
    "rtmp": "RTMP over TCP",
    "rtmps": "RTMP over TLS",
    "srt": "SRT",
    "udp": "MPEG-TS over UDP",
    "rtp": "RTP over UDP",
    "http": "HTTP",
    "https": "HTTP over TLS",
}


def pinned(url: str, guard: HostGuard) -> tuple[str, dict[str, str]]:
    """`url` with an address that `guard` has checked in place of its host, and options that tell the server the name.

    Raises SourceRefused.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        address = guard.resolve(host, parts.port or 0)[0]
    except ForbiddenHostError as fault:
        raise SourceRefused(f"{redact(url)}: {fault}", retry=False) from None
    except OSError:
        raise SourceRefused(f"{redact(url)}: the name {host} is not known to the name server", retry=True) from None
    login, at, place = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port else ""
    literal = f"[{address}]" if ":" in address else address
    options = {}
    if parts.scheme.lower().startswith("rtmp"):
        # Servers choose the site by this name: without it, libav would send the address.
        options["rtmp_tcurl"] = f"{parts.scheme}://{place}/{parts.path.lstrip('/').partition('/')[0]}"
    return parts._replace(netloc=f"{login}{at}{literal}{port}").geturl(), options
