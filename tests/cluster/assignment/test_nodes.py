"""`NodeDirectory`: who is alive."""

from __future__ import annotations

import time

from streamcap.cluster.assignment.nodes import NodeDirectory, NodeInfo
from streamcap.cluster.jetstream.connection import Connection
from streamcap.cluster.log.reader import Message


def hear(nodes: NodeDirectory, node: str, seconds_ago: float, *, starting: bool = False) -> None:
    """A report of `node` that was stored so long ago."""
    body = NodeInfo(node, "host", "default", ("ingest",), capacity=4, starting=starting).as_json()
    nodes._take(Message(f"$KV.nodes.{node}", 1, time.time() - seconds_ago, {}, body))


async def test_node_knows_itself_without_an_answer_of_nats(connection: Connection) -> None:
    own = NodeInfo("a", "host", "default", ("ingest", "recorder"), capacity=4)
    assert NodeDirectory(connection, lambda: own).nodes == [own], "else it would take no streams"
    assert NodeDirectory(connection, None).nodes == []


async def test_node_that_missed_a_report_takes_no_streams(connection: Connection) -> None:
    nodes = NodeDirectory(connection, None)
    hear(nodes, "silent", 3.5)
    assert [node.id for node in nodes.reporting] == ["silent"], "nobody has reported since: that says nothing of it"
    hear(nodes, "b", 0.2)
    assert [node.id for node in nodes.reporting] == ["b"]
    assert [node.id for node in nodes.nodes] == ["b", "silent"]
