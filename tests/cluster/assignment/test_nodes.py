"""`NodeDirectory`: who is alive."""

from __future__ import annotations

from streamcap.cluster.assignment.nodes import NodeDirectory, NodeInfo
from streamcap.cluster.jetstream.connection import Connection


async def test_node_knows_itself_without_an_answer_of_nats(connection: Connection) -> None:
    own = NodeInfo("a", "host", "default", ("ingest", "recorder"), capacity=4)
    assert NodeDirectory(connection, lambda: own).nodes == [own], "else it would take no streams"
    assert NodeDirectory(connection, None).nodes == []
