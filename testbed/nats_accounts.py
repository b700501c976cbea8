"""`NatsAccounts`: an operator with one account and one user, as `nsc` makes them, for servers that want credentials."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys

_UNLIMITED = dict.fromkeys(("subs", "data", "payload"), -1)


class NatsAccounts:
    """`config` belongs into the configuration of the servers; `creds` is the file of a user."""

    def __init__(self, directory: Path) -> None:
        operator, account, system, user = (
            nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix))
            for prefix in (
                nkeys.PREFIX_BYTE_OPERATOR,
                nkeys.PREFIX_BYTE_ACCOUNT,
                nkeys.PREFIX_BYTE_ACCOUNT,
                nkeys.PREFIX_BYTE_USER,
            )
        )
        limits = dict.fromkeys(("imports", "exports", "conn", "leaf"), -1) | _UNLIMITED | {"wildcards": True}
        storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
        accounts = {
            _name(account): _token(operator, account, "account", limits={**limits, **storage}),
            _name(system): _token(operator, system, "account", limits=limits),
        }
        preload = "\n".join(f"  {name}: {text}" for name, text in accounts.items())
        self.config = (
            f"operator: {_token(operator, operator, 'operator')}\n"
            f"system_account: {_name(system)}\nresolver: MEMORY\nresolver_preload {{\n{preload}\n}}"
        )
        self.creds = directory / "user.creds"
        self.creds.write_text(
            f"-----BEGIN NATS USER JWT-----\n{_token(account, user, 'user', pub={}, sub={}, **_UNLIMITED)}\n"
            f"------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n"
            "------END USER NKEY SEED------\n"
        )


def _name(key: Any) -> str:
    return str(key.public_key.decode())


def _token(issuer: Any, subject: Any, kind: str, **claims: Any) -> str:
    """A JWT about `subject`, signed by `issuer`."""
    body: dict[str, Any] = {
        "iat": int(time.time()),
        "iss": _name(issuer),
        "sub": _name(subject),
        "name": kind,
        "nats": {**claims, "type": kind, "version": 2},
    }
    digest = hashlib.sha256(json.dumps(body).encode()).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    text = ".".join(_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
    return f"{text}.{_encoded(issuer.sign(text.encode()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
