from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from testbed.nats import NatsCluster
from testbed.programs import require_package, require_program


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts a NATS server is `e2e`."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and "nats_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsCluster]:
    """One server."""
    require_program("nats-server")
    require_package("nats")
    with NatsCluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def connection(nats_server: NatsCluster) -> AsyncIterator[object]:
    """A connection to it, with everything a cluster needs."""
    from streamcap.cluster.jetstream.connection import ClusterOptions, connect

    connected = await connect(ClusterOptions(tuple(nats_server.urls)), "test")
    yield connected
    await connected.close()
