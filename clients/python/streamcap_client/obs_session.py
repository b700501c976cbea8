"""`obs_session`: a connection to OBS over obs-websocket 5 (rpcVersion 1, JSON).

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
"""RequestStatus: OBS is not streaming."""
ANSWER_SECONDS = 10.0
_MAX_MESSAGE_BYTES = 2**20
# WebSocketCloseCode after which reconnecting cannot help. After 4011 a client must not reconnect by itself.
_FINAL = {
    4009: "wrong password; OBS shows it in Tools, WebSocket Server Settings, Show Connect Info",
    4010: "OBS does not support rpcVersion 1 of obs-websocket; use OBS 28 or newer",
    4011: "OBS ended the session (Kick)",
}


class ObsRefusedError(Exception):
    """OBS refused the connection, or it is not OBS; retrying cannot help."""


class ObsAwayError(Exception):
    """OBS cannot be reached, or closed the connection; it may come back."""


class ObsRequestError(Exception):
    """OBS refused a request: `code` is its RequestStatus."""

    def __init__(self, code: int, comment: str) -> None:
        super().__init__(f"{comment or 'request failed'} ({code})")
        self.code = code


class ObsSession:
    """Sends requests to OBS, one at a time. Create it with `obs_session`, and run `listen` concurrently."""

    def __init__(self, connection: ClientConnection, version: str) -> None:
        self.version = version
        """Version of obs-websocket."""
        self._connection = connection
        self._numbers = itertools.count(1)
        self._pending: tuple[str, asyncio.Future[dict[str, Any]]] | None = None

    async def send_caption(self, text: str) -> None:
        """Send `text` as a caption of the running stream. Raises ObsRequestError, ObsAwayError."""
        await self._request("SendStreamCaption", {"captionText": text})

    async def listen(self) -> None:
        """Receive responses until the connection ends. Raises ObsAwayError, ObsRefusedError."""
        with _closing():
            while True:
                answer = _message(await self._connection.recv(), RESPONSE)
                if answer is None or self._pending is None:
                    continue
                number, pending = self._pending
                if answer.get("requestId") == number and not pending.done():
                    pending.set_result(answer)

    async def _request(self, kind: str, data: dict[str, str]) -> None:
        number = str(next(self._numbers))
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending = number, answer
        try:
            with _closing():
                await _send(self._connection, REQUEST, {"requestType": kind, "requestId": number, "requestData": data})
            async with asyncio.timeout(ANSWER_SECONDS):
                status = (await answer).get("requestStatus")
        except TimeoutError:
            raise ObsAwayError(f"no answer to {kind} within {ANSWER_SECONDS:g} s") from None
        finally:
            self._pending = None
        if not isinstance(status, dict) or not isinstance(status.get("code"), int):
            raise ObsRefusedError("response without requestStatus: this is not obs-websocket 5")
        if status.get("result") is not True:
            raise ObsRequestError(status["code"], " ".join(str(status.get("comment") or "").split())[:200])


@contextlib.asynccontextmanager
async def obs_session(url: str, password: str | None) -> AsyncIterator[ObsSession]:
    """Connect and identify. Raises ObsAwayError, ObsRefusedError, without the password in their texts."""
    # OBS runs on the local network: ignore the proxy settings of the environment.
    connecting = connect(url, subprotocols=[SUBPROTOCOL], compression=None, max_size=_MAX_MESSAGE_BYTES, proxy=None)
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
            raise ObsRefusedError("no Hello message: this is not obs-websocket 5")
        identify: dict[str, Any] = {"rpcVersion": RPC_VERSION, "eventSubscriptions": 0}
        challenge = hello.get("authentication")
        if challenge is not None:
            if password is None:
                raise ObsRefusedError("OBS requires a password: use --password or STREAMCAP_OBS_PASSWORD")
            if not isinstance(challenge, dict):
                raise ObsRefusedError("unknown authentication method: this is not obs-websocket 5")
            salt, nonce = str(challenge.get("salt", "")), str(challenge.get("challenge", ""))
            identify["authentication"] = authentication(password, salt, nonce)
        await _send(connection, IDENTIFY, identify)
        # No event is subscribed to, so Identified is the next message.
        if _message(await connection.recv(), IDENTIFIED) is None:
            raise ObsRefusedError("no response to Identify: this is not obs-websocket 5")
    return str(hello.get("obsWebSocketVersion", "unknown"))[:40]


async def _send(connection: ClientConnection, code: int, data: dict[str, Any]) -> None:
    await connection.send(json.dumps({"op": code, "d": data}))


def _message(text: str | bytes, code: int) -> dict[str, Any] | None:
    """The data of a message with opcode `code`; None for other opcodes. Raises ObsRefusedError for invalid messages."""
    try:
        message = json.loads(text)
        opcode, data = message["op"], message["d"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ObsRefusedError("invalid message: this is not obs-websocket 5") from None
    return data if opcode == code and isinstance(data, dict) else None


@contextlib.contextmanager
def _closing() -> Iterator[None]:
    """Raise ObsRefusedError or ObsAwayError when the connection is closed."""
    try:
        yield
    except ConnectionClosed as error:
        code = None if error.rcvd is None else error.rcvd.code
        if code in _FINAL:
            raise ObsRefusedError(_FINAL[code]) from error
        raise ObsAwayError("OBS closed the connection" if code is not None else "the connection was lost") from error
