"""One clear line for everything that can be wrong with NATS."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamcap.cluster.connection import ClusterError, ClusterOptions, Connection, connect
from streamcap.errors import InputError
from testbed.nats import NatsCluster, free_ports
from tests.conftest import require_program


async def refused(options: ClusterOptions) -> str:
    with pytest.raises(ClusterError) as caught:
        await connect(options, "test")
    return str(caught.value)


async def test_unreachable_server_is_named_without_password() -> None:
    url = f"nats://user:secret@127.0.0.1:{free_ports(1)[0]}"
    reason = await refused(ClusterOptions((url,)))
    assert "NATS cannot be used" in reason and "refused" in reason.lower()
    assert "secret" not in reason


async def test_wrong_password_is_told(tmp_path: Path) -> None:
    require_program("nats-server")
    with NatsCluster(tmp_path, extra="authorization { user: a, password: b }") as cluster:
        url = cluster.urls[0].replace("//", "//a:wrong@")
        assert "refuses the credentials" in await refused(ClusterOptions((url,)))
        connection = await connect(ClusterOptions((cluster.urls[0].replace("//", "//a:b@"),)), "test")
        await connection.close()


async def test_server_without_jetstream_is_told(tmp_path: Path) -> None:
    require_program("nats-server")
    with NatsCluster(tmp_path, jetstream=False) as cluster:
        assert "no JetStream" in await refused(ClusterOptions(tuple(cluster.urls)))


async def test_single_server_keeps_one_copy(connection: Connection) -> None:
    assert connection.replicas == 1


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"servers": ()}, "--nats"),
        ({"servers": ("http://127.0.0.1",)}, "--nats"),
        ({"servers": ("nats://a",), "site": "a.b"}, "--site"),
        ({"servers": ("nats://a",), "creds": Path("/no/such/file")}, "--nats-creds"),
        ({"servers": ("nats://a",), "replicas": 2}, "--nats-replicas"),
    ],
)
def test_wrong_option_names_its_flag(options: dict[str, object], flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        ClusterOptions(**options)  # type: ignore[arg-type]
