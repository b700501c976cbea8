"""Removes secrets from URLs and texts for logs, events, pages and errors.

Of a URL, the scheme, host and port are kept, and only known harmless words of the rest, because camera makers put
passwords into paths and under any name. A suffix such as `~1a2b3c` distinguishes URLs that are equal after redaction,
unless only the password differs. It is a keyed hash with a random key of this process, so that nobody can test
passwords with it.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from urllib.parse import unquote

HIDDEN = "***"
_KEY = secrets.token_bytes(16)
# Their paths are local or names that we chose.
_LOCAL = frozenset({"file", "webcam", "scenes", "whip", "whep"})

# scheme://user:password@host: the password ends at the last @ before the path. Passwords may contain a slash: if no
# port follows the colon, the password ends at the last @ of the URL.
_ADDRESS = re.compile(
    r"(?<![a-zA-Z0-9+.-])(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]{0,20})://"
    r"(?P<login>(?P<user>[^/\s:@\[]*)(?::(?:[^/\s]*|(?!\d*(?:[/?#\s]|$))\S*))?@)?"
    r"(?P<host>\[[^\]\s]*\](?::\d*)?|[^/?#\s'\"<>,;()@]*)"
    r"(?P<rest>[/?#]\S*)?"
)
_NO_SLASHES = re.compile(
    r"\b(?P<scheme>rtsps?|rtmps?|srt|https?|udp|rtp|mqtts?|nats|wss?):(?!//)[^\s'\"]+", re.IGNORECASE
)
_CLOSING_QUOTE = re.compile(r"""["'](?=[,:;}\])]|$)""")
_PUNCTUATION = "])}>'\",:;.!?"
_TAG = re.compile(r"~[0-9a-f]{6}$")

_SECRET = re.compile(
    r"pass|pwd|pswd|passwd|^pw$|^psw|token|auth|key|secret|sig|^si?d$|_sid|session|ssid|jwt|login|^log|usr|user(?!agent)|"
    r"code(?!c)|hdnts|hdnea|hmac|hash|credential|cookie|nonce|^pin$|^s$|ticket|policy|^e(xp|xpires)?$|^acc|bearer",
    re.IGNORECASE,
)
"""Names whose values are always secret."""
_PAIR = re.compile(r"(?P<before>^|[?&;,\s_/'\"(])(?P<name>[A-Za-z%][A-Za-z0-9_%.-]{0,40}?)=(?P<value>[^&;\s'\"]*)")
_BEARER = re.compile(r"(?P<kind>\b(?:Bearer|Basic|Digest))\s+[^\s'\"]{6,}[^'\"\n]*")

# Words about the video in paths and queries, and paths common to all devices of a maker.
_HARMLESS = """
a api captions asf avc av av0 axis axis-media b bin c cam camera cameras camlive cgi cgi-bin ch chan channel
channels chn codec compression config control default device dvr dynamic encoder feed fhd flv fps frame frames
front ftyp get getimage getsnapshot h h264 h265 hd height hevc high highres hls hostname hq html htm i icam id
image image-cgi images img index input ip ipcam isapi iphone jpeg jpg json last latest latency lg live
live-stream low lowres lq m3u8 main mainstream major master med media media1 medium mjpeg mjpg mobile mode
monitor motion mp4 mpeg mpeg4 mpegts mpg multicast name nphmotionjpeg number nvr onvif onvif1 onvif2
oneshotimage p php image play playlist preview primary profile psia public quality q r rate realmonitor record
res resolution rtp rtpstream rtsp rtsph264 rtsph2641080p rtsptunnel s sd sdp second secondary seconds seed
server size snap snapshot snapshots source speed still stream streaming streams streamtype sub substream subtype
tcp third track trackid transport ts type u udp ufirststream usecondstream unicast unicaststream uv v video
videocodec videocontrol videomain videoinput videos videostream view viewer vga vod w webcam width width_height
x xml yes no on off true false caller listener rendezvous proto h264preview h265preview mpeg4cif mpeg4unicast
cif qvga 1080p 720p 480p 360p 4k 2k amp av_stream stream_type every
"""
_WORDS = frozenset(_HARMLESS.split())
_USERS = frozenset({"admin", "administrator", "root", "user", "viewer", "operator", "guest", "service", "camera"})
_NUMBERED = re.compile(r"(?P<word>[a-z][a-z-]*?)-?\d{0,2}")
_NUMBER = re.compile(r"\d{1,3}")
_SIZE = re.compile(r"\d{2,4}x\d{2,4}|\d{1,3}(?:\.\d{1,2})?")
_WIDE = frozenset({"width", "height", "w", "h", "resolution", "res", "size"})
_BETWEEN = re.compile(r"([^A-Za-z0-9*%-]+)")


def redact(text: object) -> str:
    """`text` with all URLs and named secrets redacted. Idempotent."""
    out: list[str] = []
    text, at = str(text), 0
    for match in _ADDRESS.finditer(text):
        out += (_outside(text[at : match.start()]), _address(match))
        at = match.end()
    return "".join([*out, _outside(text[at:])])


def redact_key(name: str) -> bool:
    """Whether the value of the query key `name`, percent-encoded or not, is a secret."""
    return bool(_SECRET.search(_decoded(name)))


def _outside(text: str) -> str:
    """Text outside of URLs: only values with a secret name are hidden."""
    text = _NO_SLASHES.sub(lambda match: f"{match['scheme']}:{HIDDEN}", text)
    text = _BEARER.sub(lambda match: f"{match['kind']} {HIDDEN}", text)
    return _PAIR.sub(lambda match: _pair(match) if redact_key(match["name"]) else match[0], text)


def _pair(match: re.Match[str]) -> str:
    return f"{match['before']}{match['name']}={HIDDEN}"


def _address(match: re.Match[str]) -> str:
    scheme, rest = match["scheme"], match["rest"] or ""
    if scheme.lower() in _LOCAL:
        return match[0]
    # A closing quote, JSON after it, and punctuation are not part of the URL.
    quote = _CLOSING_QUOTE.search(rest)
    end = len(rest[: quote.start() if quote else None].rstrip(_PUNCTUATION))
    rest, suffix = rest[:end], rest[end:]
    login = ""
    if match["login"]:
        user = _decoded(match["user"])
        known = user.lower() in _USERS or user == HIDDEN or not user
        login = f"{match['user'] if known else HIDDEN}:{HIDDEN}@"
    tag = _TAG.search(rest)
    plain = rest[: tag.start()] if tag and HIDDEN in match[0] else rest
    shown = _rest(plain)
    hidden_user = bool(login) and login.startswith(HIDDEN) and match["user"] != HIDDEN
    if shown == plain and not hidden_user:
        shown = rest
    else:
        shown += f"~{hashlib.blake2s(match[0].encode(errors='replace'), key=_KEY, digest_size=3).hexdigest()}"
    return f"{scheme}://{login}{match['host']}{shown}{_outside(suffix)}"


def _rest(rest: str) -> str:
    """Path, query and fragment of a URL, redacted."""
    path, mark, query = rest.partition("?")
    path, hash_mark, fragment = path.partition("#") if not mark else (path, "", "")
    segments, after_name = [], False
    for segment in path.split("/"):
        segments.append(_hide(segment) if after_name else _segment(segment))
        # In a path, a name such as "user" is followed by its value.
        after_name = bool(segment) and _names_secret(segment)
    shown = "/".join(segments)
    if hash_mark:
        return f"{shown}#{_hide(fragment)}"
    if mark:
        query, hash_mark, fragment = query.partition("#")
        parts = re.split(r"([&;?])", query)
        shown += "?" + "".join(part if part in "&;?" else _query_part(part) for part in parts)
        shown += f"#{_hide(fragment)}" if hash_mark else ""
    return shown


def _segment(segment: str) -> str:
    if "=" in segment or "&" in segment:
        return _pairs(segment)
    pieces = _BETWEEN.split(segment)
    return "".join(piece if number % 2 or _harmless(piece) else HIDDEN for number, piece in enumerate(pieces))


def _pairs(segment: str) -> str:
    """A path segment such as `user=admin_password=x_channel=1`."""
    out, hidden = "", False
    for number, piece in enumerate(re.split(r"([_&;,](?=[A-Za-z]+=)|[&;,])", segment)):
        if number % 2:
            out += piece
            continue
        shown = _query_part(piece)
        if "=" not in piece and hidden:
            shown = _hide(piece)
        hidden = shown != piece or HIDDEN in shown
        out += shown
    return out


def _query_part(part: str) -> str:
    name, equals, value = part.partition("=")
    known = _decoded(name)
    if not equals:
        return _segment(part) if not _names_secret(part) and "%" not in part else _hide(part)
    if known != name or not re.fullmatch(r"[A-Za-z][A-Za-z_-]{0,20}\d?", name):
        return HIDDEN
    lower = known.lower().rstrip("0123456789")
    if lower in _WORDS and not _SECRET.search(known) and _harmless_value(lower, value):
        return part
    listed = lower in _WORDS or (_SECRET.search(known) is not None and len(known) <= 16)
    return f"{name}={_hide(value)}" if listed else HIDDEN


def _harmless_value(name: str, value: str) -> bool:
    if name in _WIDE and (_SIZE.fullmatch(value) or re.fullmatch(r"\d{1,4}", value)):
        return True
    if _SIZE.fullmatch(value):
        return True
    return all(_harmless(piece) for piece in _BETWEEN.split(value)[::2])


def _harmless(piece: str) -> bool:
    lower = piece.lower()
    if not piece or piece == HIDDEN or lower in _WORDS or _NUMBER.fullmatch(piece):
        return True
    match = _NUMBERED.fullmatch(lower)
    return match is not None and match["word"] in _WORDS


def _names_secret(segment: str) -> bool:
    words = [word.lower() for word in _BETWEEN.split(_decoded(segment))[::2]]
    return any(word in _USERS or (len(word) > 1 and _SECRET.search(word)) for word in words if word not in _WORDS)


def _hide(value: str) -> str:
    return HIDDEN if value else ""


def _decoded(text: str) -> str:
    """`text` without percent encoding, also if it was encoded several times."""
    for _ in range(5):
        once = unquote(text, errors="replace")
        if once == text:
            break
        text = once
    return text
