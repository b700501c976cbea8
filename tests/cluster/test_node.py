"""Two real nodes and a real nats-server: what a viewer sees."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription
from av import VideoFrame
from websockets.sync.client import connect

from testbed.cluster.nodes import SCENE, NodeProcess
from testbed.nats import NatsCluster
from testbed.service import wait_until
from testbed.timeouts import TIMEOUT_FACTOR

pytestmark = pytest.mark.e2e


class Viewer:
    """Reads one stream's events from one gateway after another, resuming with `since`."""

    def __init__(self, stream: str) -> None:
        self.messages: list[dict[str, Any]] = []
        self.last = 0
        self._stream = stream

    def read(self, node: NodeProcess, finals: int) -> None:
        """Until so many more finals have come."""
        url = f"ws://127.0.0.1:{node.port}/captions?stream={self._stream}&since={self.last}"
        with connect(url, close_timeout=0.1) as socket:
            while finals:
                message = json.loads(socket.recv(timeout=TIMEOUT_FACTOR))
                if message["type"] == "hello":
                    continue
                self.messages.append(message)
                self.last = message.get("seq") or message["to"]
                finals -= message["type"] == "caption" and message["is_final"]


def numbers(messages: list[dict[str, Any]]) -> list[int]:
    """All numbers that a viewer has seen, those in gaps included."""
    seen: list[int] = []
    for message in messages:
        seen += range(message["from"], message["to"] + 1) if message["type"] == "gap" else [message["seq"]]
    return seen


def metrics(node: NodeProcess) -> dict[str, float]:
    """By name and labels."""
    status, text = node.get("/metrics")
    assert status == 200
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def handovers(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [m for m in messages if m["type"] == "status" and m["reason"] == "moving to another node"]


def test_streams_survive_a_kill_and_a_drain(nats_server: NatsCluster, tmp_path: Path) -> None:
    viewer = Viewer("cam.1")
    with NodeProcess("a", nats_server.urls, tmp_path) as a, NodeProcess("b", nats_server.urls, tmp_path) as b:
        assert a.request("POST", "/streams", {"name": "cam.1", "url": SCENE})[0] == 201
        assert b.request("POST", "/streams", {"name": "cam.1", "url": SCENE})[0] == 409
        wait_until(lambda: b.captions("cam.1") >= 2, b.describe)
        viewer.read(a, 2)
        viewer.read(b, 2)  # the same numbers on the other gateway
        owner, other = (a, b) if "this node runs it" in a.log.read_text() else (b, a)
        owner.kill()
        viewer.read(other, 3)
        owner.start()
        owner.wait_until_ready()
        # Its viewers reconnect to a gateway that knows the past.
        viewer.read(owner, 1)
        assert other.terminate() == 0, other.describe()
        while not handovers(viewer.messages):
            viewer.read(owner, 1)
        viewer.read(owner, 2)
        assert owner.request("DELETE", "/streams/cam.1")[0] == 204
        assert owner.get("/streams/cam.1")[0] == 404
    seen = numbers(viewer.messages)
    assert seen == sorted(set(seen)), "a number came twice, or out of order"
    assert seen == list(range(seen[0], seen[-1] + 1)), "a number is missing"
    finals = [m for m in viewer.messages if m["type"] == "caption" and m["is_final"]]
    starts = [final["start"] for final in finals]
    assert starts == sorted(starts)
    assert len({final["id"] for final in finals}) == len(finals)
    # The kill leaves a gap for what nobody can know; the drain leaves none.
    terms = [m for m in viewer.messages if m["type"] == "status" and m["state"] == "connecting"]
    assert len(terms) >= 2 and len(handovers(viewer.messages)) == 1


def test_file_is_read_again_when_saved_and_at_hangup(nats_server: NatsCluster, tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(f"streams: {{door: {{url: '{SCENE}'}}, yard: {{url: '{SCENE}'}}}}\n")
    with NodeProcess("a", nats_server.urls, tmp_path, "--config", str(file)) as node:
        wait_until(lambda: node.captions("door") >= 1, node.describe)
        file.write_text(
            f"server: {{replay_events: 99}}\ncluster: {{capacity: 9}}\n"
            f"streams: {{door: {{url: '{SCENE}', every: 0.25}}, hall: {{url: '{SCENE}'}}}}\n"
        )
        node.signal(signal.SIGHUP)
        wait_until(lambda: set(node.streams()) == {"door", "hall"}, node.describe)
        wait_until(lambda: node.streams()["door"]["every"] == 0.25, node.describe)
        wait_until(lambda: node.captions("hall") >= 1, node.describe)
        log = "configuration reloaded: added hall; changed door; removed yard; needs a restart: %s"
        fixed = "cluster.capacity, server.replay_events"
        wait_until(lambda: log % fixed in node.log.read_text(), node.describe)
        before = node.log.read_text().count(fixed)
        node.signal(signal.SIGHUP)
        wait_until(lambda: node.log.read_text().count(fixed) > before, node.describe)
        assert node.is_running


def test_cluster_status_shows_nodes_and_owners(nats_server: NatsCluster, tmp_path: Path) -> None:
    with NodeProcess("a", nats_server.urls, tmp_path, f"door={SCENE}", "--capacity", "7") as node:
        wait_until(lambda: node.captions("door") >= 1, node.describe)
        command = [sys.executable, "-m", "streamcap", "cluster", "status", "--json", "--nats", nats_server.urls[0]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_FACTOR)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert [(n["capacity"], n["roles"]) for n in found["nodes"]] == [(7, ["engine", "gateway", "ingest"])]
        assert [(s["name"], s["owner_alive"], s["term"]) for s in found["streams"]] == [("door", True, 1)]
        assert found["streams"][0]["owner"] == found["nodes"][0]["id"]
        assert found["waiting"] == {"default": 0}


def test_gateway_and_ingest_in_two_nodes(nats_server: NatsCluster, tmp_path: Path) -> None:
    ingest = NodeProcess("i", nats_server.urls, tmp_path, "--roles", "ingest,engine")
    gateway = NodeProcess("g", nats_server.urls, tmp_path, "--roles", "gateway")
    with ingest, gateway:
        assert gateway.request("POST", "/streams", {"name": "door", "url": SCENE})[0] == 201
        viewer = Viewer("door")
        viewer.read(gateway, 2)
        assert any(not m["is_final"] for m in viewer.messages if m["type"] == "caption"), "interims come too"
        assert "-->" in gateway.get("/streams/door/captions.srt")[1]
        assert "#EXTM3U" in gateway.get("/streams/door/hls/captions.m3u8")[1]
        status, text = gateway.get("/streams/door/snapshot.jpg")
        assert status == 503 and "node i-" in text
        status, text = ingest.get("/streams")
        assert status == 404 and "is no gateway" in text
        values, seen = metrics(ingest), metrics(gateway)
        assert values['streamcap_cluster_streams_owned{role="ingest"}'] == 1
        assert values['streamcap_cluster_takeovers_total{role="ingest"}'] == 1
        assert values["streamcap_cluster_publish_seconds_count"] >= 3
        assert values["streamcap_cluster_writes_refused_total"] == 0
        assert values['streamcap_captions_total{stream="door"}'] >= 2
        assert seen["streamcap_cluster_nodes"] == 2 and seen["streamcap_cluster_streams"] == 1
        assert not any("stream=" in name for name in seen), "a stream's metrics come from the node that runs it"
        assert gateway.request("PATCH", "/streams/door", {"every": 0.25})[0] == 200
        wait_until(lambda: gateway.streams()["door"]["every"] == 0.25, gateway.describe)
        viewer.read(gateway, 1)
        assert gateway.request("DELETE", "/streams/door")[0] == 204
        wait_until(lambda: "stream door is ended" in ingest.log.read_text(), ingest.describe)


async def test_whep_of_another_node_is_redirected(nats_server: NatsCluster, tmp_path: Path) -> None:
    ingest = NodeProcess("i", nats_server.urls, tmp_path, f"door={SCENE}")
    gateway = NodeProcess("g", nats_server.urls, tmp_path, "--roles", "gateway")
    with ingest, gateway:
        wait_until(lambda: gateway.captions("door") >= 1, gateway.describe)
        async with httpx.AsyncClient(timeout=TIMEOUT_FACTOR) as http, asyncio.timeout(TIMEOUT_FACTOR):
            viewer = RTCPeerConnection()
            viewer.addTransceiver("video", direction="recvonly")
            await viewer.setLocalDescription(await viewer.createOffer())
            offer, headers = viewer.localDescription.sdp, {"Content-Type": "application/sdp"}
            first = await http.post(f"http://127.0.0.1:{gateway.port}/whep/door", content=offer, headers=headers)
            assert first.status_code == 307, first.text
            place = first.headers["Location"]
            assert place == f"http://127.0.0.1:{ingest.port}/whep/door"
            answer = await http.post(place, content=offer, headers=headers)
            assert answer.status_code == 201, answer.text
            await viewer.setRemoteDescription(RTCSessionDescription(answer.text, "answer"))
            frame = await viewer.getReceivers()[0].track.recv()
            assert isinstance(frame, VideoFrame) and frame.width == 64
            session = answer.url.join(answer.headers["Location"])
            assert (await http.delete(session)).status_code == 200
            await viewer.close()
            image = await http.get(f"http://127.0.0.1:{gateway.port}/streams/door/snapshot.jpg", follow_redirects=True)
            assert (image.status_code, image.headers["Content-Type"]) == (200, "image/jpeg")
