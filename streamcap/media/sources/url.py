"""Checks of source URLs, before anything is opened."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from streamcap.errors import InputError
from streamcap.redact import redact

NETWORK = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp", "http", "https")
LOCAL = ("file", "webcam", "scenes")
PUSHED = ("whip",)
_KNOWN = "rtsp://, rtsps://, rtmp://, srt://, udp://, rtp://, http(s)://, a file's path, webcam:, whip: or scenes:"
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<rest>.*)", re.DOTALL)


def scheme_of(url: str) -> str:
    """The scheme in lower case; "file" for a path."""
    match = _SCHEME.fullmatch(url)
    scheme = match["scheme"].lower() if match else "file"
    return scheme if scheme in (*NETWORK, *LOCAL, *PUSHED) else "file"


def check_url(url: str) -> str:
    """`url` without surrounding spaces, if it is valid.

    Raises InputError: one line, secrets redacted. The server restricts URLs from HTTP clients further.
    """
    url = url.strip()
    if not url:
        raise InputError(f"an empty URL names no source; use {_KNOWN}")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in url):
        raise InputError(f"URL {redact(url)!r} contains a control character")
    match = _SCHEME.fullmatch(url)
    scheme = scheme_of(url)
    if scheme == "file" and match and match["scheme"].lower() != "file" and not _exists(url):
        raise InputError(f"{redact(url)}: no source has the scheme {match['scheme']!r}; use {_KNOWN}")
    if scheme in NETWORK:
        _check_network(url, scheme)
    elif scheme == "file":
        _check_file(url)
    elif scheme == "webcam":
        webcam_device(url)
    elif scheme == "scenes":
        # Imported on first use: scenes need Pillow, other sources do not.
        from streamcap.media.sources.scenes import SceneOptions

        SceneOptions.from_url(url)
    return url


def file_path(url: str) -> Path:
    """The path of a file URL, or of a plain path."""
    if url.lower().startswith("file:"):
        rest = url[len("file:") :]
        return Path(rest[2:] if rest.startswith("//") else rest)
    try:
        return Path(url).expanduser()
    except RuntimeError:  # `~name` is not a user: then it is a file name
        return Path(url)


def is_webp(path: Path) -> bool:
    """Whether a file is a WebP image, by its content. A pipe is not read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            first = file.read(12)
    except (OSError, ValueError):  # invalid as a file name
        return False
    return first[:4] == b"RIFF" and first[8:] == b"WEBP"


def webcam_device(url: str) -> str:
    """The device of a `webcam:` URL, by default /dev/video0. Raises InputError if it does not exist."""
    device = url.split(":", 1)[1] or "/dev/video0"
    if device.isdecimal():
        device = f"/dev/video{device}"
    if not device.startswith("/dev/"):
        raise InputError(f"{url}: name a device, as in webcam:/dev/video0")
    if not _exists(device):
        raise InputError(f"{url}: there is no device {device}; is the camera plugged in?")
    return device


def _check_network(url: str, scheme: str) -> None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # its text contains part of a password with a slash
        raise InputError(
            f"{redact(url)}: invalid host or port; write /, ?, # and @ in a password as %2F, %3F, %23 and %40"
        ) from None
    listens = scheme == "srt" and port is not None
    if not url[len(scheme) + 1 :].startswith("//") or not (host or listens):
        raise InputError(f"{redact(url)}: no host; write it as {scheme}://HOST/stream")


def _check_file(url: str) -> None:
    try:
        path = file_path(url)
        if path.is_dir():
            raise InputError(f"{url}: is a directory; name a video file")
        if not path.exists():
            raise InputError(f"{url}: there is no such file")
        # Not opened: opening a pipe without a writer blocks.
        if not os.access(path, os.R_OK):
            raise InputError(f"{url}: cannot be read: permission denied")
    except OSError as error:
        raise InputError(f"{url}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RuntimeError) as error:  # invalid as a file name; an unknown ~user
        raise InputError(f"{url}: cannot be a file: {error}") from None


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # invalid as a file name
        return False
