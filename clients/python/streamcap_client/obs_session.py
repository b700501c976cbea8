"""One identified connection to OBS, by the obs-websocket 5 protocol (rpcVersion 1, JSON).

Source: github.com/obsproject/obs-websocket, docs/generated/protocol.md. Comments name its sections.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

RPC_VERSION = 1
SUBPROTOCOL = Subprotocol("obswebsocket.json")
# WebSocketOpCode
HELLO, IDENTIFY, IDENTIFIED, REQUEST, RESPONSE = 0, 1, 2, 6, 7
OUTPUT_NOT_RUNNING = 501
"""RequestStatus: there is no stream that could carry a caption."""
ANSWER_SECONDS = 10.0
_MOST_MESSAGE_BYTES = 2**20
# WebSocketCloseCode: what asking again would not change. After 4011 one must not come back unasked.
_FINAL = {
    4009: "wrong password; OBS shows it in Tools, WebSocket Server Settings, Show Connect Info",
    4010: "OBS does not speak rpcVersion 1 of obs-websocket; OBS 28 or newer does",
    4011: "OBS ended the session (Kick)",
}


class ObsRefusedError(Exception):
    """OBS will not have us, or is none; asking again would not help."""


class ObsAwayError(Exception):
    """OBS cannot be reached, or has gone; it may come back."""


class ObsRequestError(Exception):
    """OBS did not do what was asked: `code` is its RequestStatus."""

    def __init__(self, code: int, comment: str) -> None:
        super().__init__(f"{comment or 'request failed'} ({code})")
        self.code = code


class ObsSession:
    """Requests to OBS, one at a time; from `obs_session`. `listen` must run beside them."""

    def __init__(self, connection: ClientConnection, version: str) -> None:
        self.version = version
        """Of obs-websocket, as it says itself."""
        self._connection = connection
        self._numbers = itertools.count(1)
        self._asked: tuple[str, asyncio.Future[dict[str, Any]]] | None = None

    async def send_caption(self, text: str) -> None:
        """Put `text` into the running stream. Raises ObsRequestError, ObsAwayError."""
        await self._request("SendStreamCaption", {"captionText": text})

    async def listen(self) -> None:
        """Take in the answers until the connection ends. Raises ObsAwayError, ObsRefusedError."""
        with _closing():
            while True:
                answer = _message(await self._connection.recv(), RESPONSE)
                if answer is None or self._asked is None:
                    continue
                number, asked = self._asked
                if answer.get("requestId") == number and not asked.done():
                    asked.set_result(answer)

    async def _request(self, kind: str, data: dict[str, str]) -> None:
        number = str(next(self._numbers))
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked = number, answer
        try:
            with _closing():
                await _send(self._connection, REQUEST, {"requestType": kind, "requestId": number, "requestData": data})
            async with asyncio.timeout(ANSWER_SECONDS):
                status = (await answer).get("requestStatus")
        except TimeoutError:
            raise ObsAwayError(f"no answer to {kind} within {ANSWER_SECONDS:g} s") from None
        finally:
            self._asked = None
        if not isinstance(status, dict) or not isinstance(status.get("code"), int):
            raise ObsRefusedError("answers without a requestStatus: this is not obs-websocket 5")
        if status.get("result") is not True:
            raise ObsRequestError(status["code"], " ".join(str(status.get("comment") or "").split())[:200])


@contextlib.asynccontextmanager
async def obs_session(url: str, password: str | None) -> AsyncIterator[ObsSession]:
    """Connect and identify. Raises ObsAwayError, ObsRefusedError; the password is in none of their texts."""
    # OBS is on this machine or the next: a proxy of the environment is not meant for it.
    connecting = connect(url, subprotocols=[SUBPROTOCOL], compression=None, max_size=_MOST_MESSAGE_BYTES, proxy=None)
    async with contextlib.AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(connecting)
        except InvalidStatus as error:
            raise ObsRefusedError(f"answers HTTP {error.response.status_code}: this is not OBS's websocket") from error
        except InvalidHandshake as error:
            raise ObsAwayError(" ".join(str(error).split())) from error
        except (OSError, EOFError, TimeoutError) as error:
            raise ObsAwayError(getattr(error, "strerror", None) or str(error) or "no answer") from error
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                version = await _identify(connection, password)
        except TimeoutError:
            raise ObsAwayError(f"no Hello within {ANSWER_SECONDS:g} s; obs-websocket 5 comes with OBS 28") from None
        yield ObsSession(connection, version)


def authentication(password: str, salt: str, challenge: str) -> str:
    """The answer to OBS's challenge ("Creating an authentication string")."""
    secret = base64.b64encode(hashlib.sha256((password + salt).encode()).digest()).decode()
    return base64.b64encode(hashlib.sha256((secret + challenge).encode()).digest()).decode()


async def _identify(connection: ClientConnection, password: str | None) -> str:
    """Hello, Identify, Identified ("Connection steps"); returns obs-websocket's version."""
    with _closing():
        hello = _message(await connection.recv(), HELLO)
        if hello is None or not isinstance(hello.get("rpcVersion"), int):
            raise ObsRefusedError("says no Hello: this is not obs-websocket 5")
        identify: dict[str, Any] = {"rpcVersion": RPC_VERSION, "eventSubscriptions": 0}
        asked = hello.get("authentication")
        if asked is not None:
            if password is None:
                raise ObsRefusedError("OBS asks for a password: give --password or STREAMCAP_OBS_PASSWORD")
            if not isinstance(asked, dict):
                raise ObsRefusedError("asks for a password in a way that is not obs-websocket 5's")
            salt, challenge = str(asked.get("salt", "")), str(asked.get("challenge", ""))
            identify["authentication"] = authentication(password, salt, challenge)
        await _send(connection, IDENTIFY, identify)
        # Nothing else may come before it, since no event was subscribed to.
        if _message(await connection.recv(), IDENTIFIED) is None:
            raise ObsRefusedError("does not answer Identify: this is not obs-websocket 5")
    return str(hello.get("obsWebSocketVersion", "of no version"))[:40]


async def _send(connection: ClientConnection, code: int, data: dict[str, Any]) -> None:
    await connection.send(json.dumps({"op": code, "d": data}))


def _message(text: str | bytes, code: int) -> dict[str, Any] | None:
    """The data of a message of opcode `code`, None for one of another. Raises ObsRefusedError for what is neither."""
    try:
        message = json.loads(text)
        found, data = message["op"], message["d"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ObsRefusedError("sends what is no message of obs-websocket 5") from None
    return data if found == code and isinstance(data, dict) else None


@contextlib.contextmanager
def _closing() -> Iterator[None]:
    """The end of the connection as one of our errors."""
    try:
        yield
    except ConnectionClosed as error:
        code = None if error.rcvd is None else error.rcvd.code
        if code in _FINAL:
            raise ObsRefusedError(_FINAL[code]) from error
        raise ObsAwayError("OBS ended the connection" if code is not None else "the connection broke") from error
