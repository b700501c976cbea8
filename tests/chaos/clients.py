"""Clients that store all messages and always resume: one for websocket, one for SSE."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from abc import ABC, abstractmethod
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

RETRY_SECONDS = 0.1
TIMEOUT_SECONDS = 20.0


class ResumingClient(ABC):
    """Reads the events of one stream on a thread, over all runs of the service. `messages` are (run, message)."""

    def __init__(self, stream: str, port: int) -> None:
        self.stream = stream
        self.run = 0
        self.messages: list[tuple[int, dict[str, Any]]] = []
        self.refused: list[str] = []
        self._port = port
        self._last = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._read_for_ever, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._thread.join(TIMEOUT_SECONDS)

    @property
    def last_seq(self) -> int:
        return self._last

    def _read_for_ever(self) -> None:
        while not self._stopping:
            # The service was killed, or has not started yet.
            with contextlib.suppress(OSError, WebSocketException, http.client.HTTPException):
                self._read()
            time.sleep(RETRY_SECONDS)

    @abstractmethod
    def _read(self) -> None:
        """Connect and take messages until the connection ends."""

    def _take(self, text: str) -> None:
        message = json.loads(text)
        self.messages.append((self.run, message))
        self._last = message.get("seq") or (message["to"] if message["type"] == "gap" else None) or self._last


class WebsocketClient(ResumingClient):
    def _read(self) -> None:
        since = f"&since={self._last}" if self._last else ""
        with connect(
            f"ws://127.0.0.1:{self._port}/captions?stream={self.stream}{since}", open_timeout=5, close_timeout=0.1
        ) as socket:
            while not self._stopping:
                try:
                    self._take(str(socket.recv(timeout=0.5)))
                except TimeoutError:
                    continue


class EventSourceClient(ResumingClient):
    def _read(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
        try:
            headers = {"Last-Event-ID": str(self._last)} if self._last else {}
            connection.request("GET", f"/captions/{self.stream}", headers=headers)
            answer = connection.getresponse()
            if answer.status != 200:
                self.refused.append(f"{answer.status} {answer.read(200)!r}")
                return
            while not self._stopping and (line := answer.readline()):
                if line.startswith(b"data:"):
                    self._take(line[5:].decode().strip())
        finally:
            connection.close()
