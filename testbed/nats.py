"""`NatsCluster`: one or three real nats-servers with JetStream on free loopback ports."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from testbed.ports import free_ports

START_SECONDS = 60.0


class NatsServer:
    """One server: `start`, `kill` (-9), `stop`, `pause` and `resume` as often as wanted; its store stays."""

    def __init__(self, config: Path, port: int) -> None:
        self.port = port
        self.url = f"nats://127.0.0.1:{port}"
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = self._config.with_suffix(".out").open("ab")
        with log:
            self._process = subprocess.Popen(["nats-server", "-c", str(self._config)], stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9; idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class NatsCluster:
    """`with NatsCluster(tmp_path, servers=3) as cluster:` — all servers accept connections when it is entered.

    Parameters:
        extra: lines of the configuration of each server, such as an `authorization` block.
        jetstream: without it the servers have core NATS only.
        host: address that clients may connect to; 127.0.0.1 must be part of it.
    """

    def __init__(
        self, directory: Path, servers: int = 1, *, extra: str = "", jetstream: bool = True, host: str = "127.0.0.1"
    ) -> None:
        ports = free_ports(2 * servers)
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports[servers:])
        self.servers: list[NatsServer] = []
        for number in range(servers):
            lines = [f"server_name: n{number}", f"listen: {host}:{ports[number]}"]
            if jetstream:
                store = directory / f"store{number}"
                lines.append(f'jetstream {{ store_dir: "{store}", max_file: 1GB, max_mem: 256MB }}')
            if servers > 1:
                lines.append(
                    f"cluster {{ name: test, listen: 127.0.0.1:{ports[servers + number]}, routes: [{routes}] }}"
                )
            config = directory / f"nats{number}.conf"
            config.write_text("\n".join([*lines, extra, ""]))
            self.servers.append(NatsServer(config, ports[number]))

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            for server in self.servers:
                _wait_for_port(server)
        except BaseException:  # also when interrupted: leave no process behind
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        for server in self.servers:
            server.kill()


def _wait_for_port(server: NatsServer) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        except OSError:
            assert server.is_running and time.monotonic() < end, f"nats-server does not listen on {server.port}"
            time.sleep(0.02)
        else:
            return
