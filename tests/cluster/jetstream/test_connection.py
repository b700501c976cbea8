"""One clear line for everything that can be wrong with NATS."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamcap.cluster.jetstream.connection import ClusterError, ClusterOptions, Connection, connect
from streamcap.errors import InputError
from testbed.certificates import certificate
from testbed.nats import NatsCluster
from testbed.nats_accounts import NatsAccounts
from testbed.ports import free_port
from testbed.programs import require_program


async def refused(options: ClusterOptions) -> str:
    with pytest.raises(ClusterError) as caught:
        await connect(options, "test")
    return str(caught.value)


async def test_unreachable_server_is_named_without_password() -> None:
    url = f"nats://user:secret@127.0.0.1:{free_port()}"
    reason = await refused(ClusterOptions((url,)))
    assert "NATS cannot be used" in reason and "refused" in reason.lower()
    assert "secret" not in reason


@pytest.mark.e2e
async def test_wrong_password_is_reported(tmp_path: Path) -> None:
    require_program("nats-server")
    with NatsCluster(tmp_path, extra="authorization { user: a, password: b }") as cluster:
        url = cluster.urls[0].replace("//", "//a:wrong@")
        assert "refuses the credentials" in await refused(ClusterOptions((url,)))
        connection = await connect(ClusterOptions((cluster.urls[0].replace("//", "//a:b@"),)), "test")
        await connection.close()


@pytest.mark.e2e
async def test_tls_and_certificates_of_both_sides(tmp_path: Path) -> None:
    require_program("nats-server")
    (server_dir := tmp_path / "server").mkdir()
    (client_dir := tmp_path / "client").mkdir()
    (server_cert, server_key), (cert, key) = certificate(server_dir), certificate(client_dir)
    tls = f'tls {{ cert_file: "{server_cert}", key_file: "{server_key}", ca_file: "{cert}", verify: true }}'
    with NatsCluster(tmp_path, extra=f"{tls}\nauthorization {{ user: a, password: b }}") as cluster:
        right = cluster.urls[0].replace("nats://", "tls://a:b@")
        options = {"ca": server_cert, "cert": cert, "key": key}
        connection = await connect(ClusterOptions((right,), **options), "test")
        await connection.close()
        wrong = right.replace("a:b@", "a:wrong@")
        reason = await refused(ClusterOptions((wrong,), **options))
        assert "refuses the credentials" in reason and "wrong" not in reason
        for given in ({**options, "ca": cert}, {"ca": server_cert}, {"cert": cert, "key": key}):
            reason = await refused(ClusterOptions((right,), **given))
            assert "TLS" in reason and "--nats-ca, --nats-cert" in reason and "\n" not in reason


@pytest.mark.e2e
async def test_credentials_file(tmp_path: Path) -> None:
    require_program("nats-server")
    (other_dir := tmp_path / "other").mkdir()
    accounts, other = NatsAccounts(tmp_path), NatsAccounts(other_dir)
    with NatsCluster(tmp_path, extra=accounts.config) as cluster:
        servers = tuple(cluster.urls)
        connection = await connect(ClusterOptions(servers, creds=accounts.creds), "test")
        await connection.close()
        for creds in (other.creds, None):
            assert "refuses the credentials" in await refused(ClusterOptions(servers, creds=creds))
    (empty := tmp_path / "empty.creds").write_text("")
    with pytest.raises(InputError, match=r"--nats-creds .*: no credentials"):
        ClusterOptions(servers, creds=empty)


@pytest.mark.e2e
async def test_server_without_jetstream_is_reported(tmp_path: Path) -> None:
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
