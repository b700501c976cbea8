"""HTTP Basic and Digest authentication (RFC 7617, RFC 7616) for cameras."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Iterable

_SCHEME = re.compile(r"(?:^|,)\s*(?P<kind>Basic|Digest)\b", re.IGNORECASE)
_FIELD = re.compile(r'(?P<name>[\w-]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,]+))')
_HASHES = {"MD5": "md5", "SHA-256": "sha256"}


class HttpLogin:
    """Authentication of one user at one server.

    Call `answer` with the challenges of a 401, then `header` for each request.
    """

    def __init__(self, user: str, password: str, *, make_nonce: Callable[[], str] | None = None) -> None:
        self._user = user
        self._password = password
        self._make_nonce = make_nonce or (lambda: secrets.token_hex(8))
        self._digest: dict[str, str] | None = None
        self._basic = False
        self._count = 0

    def answer(self, challenges: Iterable[str]) -> bool:
        """Choose the strongest scheme in `challenges` (WWW-Authenticate values). Returns False if none is supported."""
        digests: list[dict[str, str]] = []
        for challenge in challenges:
            starts = list(_SCHEME.finditer(challenge))
            for number, start in enumerate(starts):
                end = starts[number + 1].start() if number + 1 < len(starts) else len(challenge)
                if start["kind"].lower() == "basic":
                    self._basic = True
                    continue
                fields = {
                    field["name"].lower(): field["quoted"] if field["quoted"] is not None else field["plain"]
                    for field in _FIELD.finditer(challenge[start.end() : end])
                }
                if _algorithm(fields) in _HASHES and "nonce" in fields:
                    digests.append(fields)
        self._digest = max(digests, key=lambda fields: _algorithm(fields) == "SHA-256", default=None)
        self._count = 0
        return self._basic or self._digest is not None

    def header(self, method: str, target: str) -> str | None:
        """The Authorization header for a request of `target`; None before any challenge."""
        if self._digest is None:
            if not self._basic:
                return None
            return "Basic " + base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        return self._digest_header(self._digest, method, target)

    def _digest_header(self, fields: dict[str, str], method: str, target: str) -> str:
        def digest(text: str) -> str:
            # RTSP headers keep bytes that are not UTF-8 as surrogates.
            data = text.encode(errors="surrogateescape")
            return hashlib.new(_HASHES[_algorithm(fields)], data, usedforsecurity=False).hexdigest()

        self._count += 1
        realm, nonce, own, count = fields.get("realm", ""), fields["nonce"], self._make_nonce(), f"{self._count:08x}"
        first = digest(f"{self._user}:{realm}:{self._password}")
        if fields.get("algorithm", "").lower().endswith("-sess"):
            first = digest(f"{first}:{nonce}:{own}")
        second = digest(f"{method}:{target}")
        quoted = {"username": self._user, "realm": realm, "nonce": nonce, "uri": target}
        plain = {"algorithm": fields["algorithm"]} if "algorithm" in fields else {}
        if "auth" in [word.strip() for word in fields.get("qop", "").split(",")]:
            quoted["response"] = digest(f"{first}:{nonce}:{count}:{own}:auth:{second}")
            quoted["cnonce"] = own
            plain |= {"qop": "auth", "nc": count}
        else:
            quoted["response"] = digest(f"{first}:{nonce}:{second}")
        if "opaque" in fields:
            quoted["opaque"] = fields["opaque"]
        parts = [f'{name}="{value}"' for name, value in quoted.items()] + [f"{name}={plain[name]}" for name in plain]
        return "Digest " + ", ".join(parts)


def _algorithm(fields: dict[str, str]) -> str:
    return fields.get("algorithm", "MD5").upper().removesuffix("-SESS")
