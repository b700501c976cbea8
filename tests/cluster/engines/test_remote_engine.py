"""Engines and what uses them in one process, over a real nats-server; the model is the fast fake one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.errors import NoStreamResponseError

from streamcap.cluster.engines.engine_service import EngineService
from streamcap.cluster.engines.model_directory import ModelDirectory, ModelInfo
from streamcap.cluster.engines.remote_engine import RemoteEngine
from streamcap.cluster.jetstream.connection import ClusterOptions, Connection, connect
from streamcap.cluster.tasks import end_tasks
from streamcap.engine.change_gate import ChangeGateOptions
from streamcap.engine.engine import Engine, EngineOptions
from streamcap.engine.outcome import Captioned, Failed, Interim, Outcome, Unchanged
from streamcap.engine.served_model import ServedModel
from streamcap.image_spec import ImageSpec
from streamcap.media.convert import Converter
from streamcap.media.frame import Pixels, Sample
from testbed.fake_model import FakeModel
from testbed.nats import NatsCluster
from testbed.timeouts import TIMEOUT_FACTOR
from tests.cluster.engines.samples import sample

OPTIONS = EngineOptions(ChangeGateOptions(threshold=0.02), interim_interval=0.001)
INFO = ModelInfo.of(ServedModel("mini", "model mini", None, Converter(ImageSpec(32, 32))), OPTIONS.gate)


class SlowModel(FakeModel):
    """Takes `seconds` for each decoded row."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.decode_seconds, self.row_seconds = 0.0, seconds


@dataclass
class EngineNode:
    """An engine with its own connection."""

    service: EngineService
    engine: Engine
    connection: Connection

    def kill(self) -> None:
        """As `kill -9`: the server loses the connection."""
        self.connection.client.options["allow_reconnect"] = False
        self.connection.client._transport._io_writer.transport.abort()


class Owner:
    """What an ingest node has: streams that want captions."""

    def __init__(self, node: RemoteEngine, outcomes: list[tuple[float, Outcome]]) -> None:
        self.node, self.outcomes = node, outcomes

    def finals(self, stream: str = "door") -> list[Outcome]:
        return [o for _, o in self.outcomes if o.sample.stream == stream and not isinstance(o, Interim)]

    async def ask(self, one: Sample) -> Outcome:
        """Submit a sample; its outcome."""
        before = len(self.finals(one.stream))
        self.node.submit(one)
        await until(lambda: len(self.finals(one.stream)) > before)
        return self.finals(one.stream)[-1]


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_FACTOR):
        while not reached():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def engine_node(nats: NatsCluster, name: str, model: FakeModel | None = None) -> AsyncIterator[EngineNode]:
    connection = await connect(ClusterOptions(tuple(nats.urls)), name)
    engine = Engine({"mini": model or FakeModel()}, OPTIONS, lambda outcomes: None)
    service = EngineService(connection, name, engine, {"mini": INFO})
    engine.start()
    task = asyncio.create_task(service.run())
    try:
        yield EngineNode(service, engine, connection)
    finally:
        await end_tasks([task])
        engine.stop(10)
        await connection.close()


@asynccontextmanager
async def owner(nats: NatsCluster, name: str) -> AsyncIterator[Owner]:
    connection = await connect(ClusterOptions(tuple(nats.urls)), name)
    models, outcomes = ModelDirectory(connection), list[tuple[float, Outcome]]()

    def deliver(delivered: list[Outcome]) -> None:
        outcomes.extend((time.monotonic(), outcome) for outcome in delivered)

    remote = RemoteEngine(connection, name, models, "mini", deliver)
    tasks = [asyncio.create_task(models.run()), asyncio.create_task(remote.run())]
    try:
        yield Owner(remote, outcomes)
    finally:
        await end_tasks(tasks)
        await connection.close()


def picture(number: int) -> Pixels:
    """An image that differs from those of other numbers; noise of a static scene does not change its mean colors."""
    small = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    return np.kron(small, np.ones((8, 8, 1), np.uint8))


def shot(number: int, *, at: float, stream: str = "door") -> Sample:
    now = time.monotonic()
    return replace(sample(stream, at=at), pixels=picture(number), arrived=now, submitted=now)


def summary(outcome: Outcome) -> tuple[object, ...]:
    """What a viewer learns of it."""
    decoded = outcome.decoded if isinstance(outcome, Unchanged) else None
    text = (outcome.text, outcome.first is None) if isinstance(outcome, Captioned) else None
    return type(outcome).__name__, outcome.sample.start, decoded, text


async def test_outcomes_are_those_of_a_local_engine(nats_server: NatsCluster) -> None:
    here: list[Outcome] = []
    local = Engine({"mini": FakeModel()}, OPTIONS, here.extend)
    local.start()
    shown = [1, 1, 2, 2, 2, 1, 3, 3]
    async with owner(nats_server, "cameras") as cameras, engine_node(nats_server, "gpu") as gpu:
        await until(lambda: cameras.node.dispatcher.serves("mini"))
        for at, number in enumerate(shown):
            one = shot(number, at=at)
            there = await cameras.ask(one)
            local.submit(one)
            await until(lambda: sum(not isinstance(o, Interim) for o in here) > at)  # noqa: B023
            expected = [outcome for outcome in here if not isinstance(outcome, Interim)][-1]
            assert summary(there) == summary(expected)
            assert there.sample is one
        assert gpu.engine.gate.take("cameras/door") is None, "an engine keeps nothing of others"
        assert cameras.node.statistics.captioned == 4
    assert any(isinstance(outcome, Interim) for _, outcome in cameras.outcomes)
    local.stop(10)


async def test_another_engine_decodes_once_and_stays_silent(nats_server: NatsCluster) -> None:
    async with owner(nats_server, "cameras") as cameras:
        async with engine_node(nats_server, "first"):
            await until(lambda: cameras.node.dispatcher.serves("mini"))
            assert isinstance(await cameras.ask(shot(1, at=0)), Captioned)
            assert summary(await cameras.ask(shot(1, at=1)))[2] is False
        async with engine_node(nats_server, "second"):
            await until(lambda: cameras.node.dispatcher.engines == ("second",))
            assert summary(await cameras.ask(shot(1, at=2))) == ("Unchanged", 2, True, None)
            assert summary(await cameras.ask(shot(1, at=3))) == ("Unchanged", 3, False, None)
            assert isinstance(await cameras.ask(shot(2, at=4)), Captioned)


async def test_no_engine_says_so_and_counts(nats_server: NatsCluster) -> None:
    async with owner(nats_server, "cameras") as cameras:
        unknown = cameras.node.served.get(None)
        assert unknown.convert([]).size == 0 and "no engine" in unknown.description
        for at in range(3):
            outcome = await cameras.ask(shot(1, at=at))
            assert isinstance(outcome, Failed) and outcome.reason == "no engine serves model mini"
        assert cameras.node.dispatcher.missed == 2
        async with engine_node(nats_server, "gpu"):
            await until(lambda: isinstance(cameras.finals()[-1], Captioned))
            assert cameras.finals()[-1].sample.start == 2, "the newest"
            assert cameras.node.served.get("mini").description == "model mini"


async def test_engine_is_announced_when_jetstream_answers(
    nats_server: NatsCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node may start while a leader is elected."""
    publish, failures = JetStreamContext.publish, iter([NoStreamResponseError(), NatsTimeout()])

    async def elect(*arguments: object, **options: object) -> object:
        for failure in failures:
            raise failure
        return await publish(*arguments, **options)  # type: ignore[arg-type]

    async with owner(nats_server, "cameras") as cameras:
        monkeypatch.setattr(JetStreamContext, "publish", elect)
        async with engine_node(nats_server, "late"):
            await until(lambda: cameras.node.dispatcher.serves("mini"))
            assert isinstance(await cameras.ask(sample()), Captioned)


async def test_samples_of_a_killed_engine_go_to_the_other(nats_server: NatsCluster) -> None:
    names = [f"cam{number}" for number in range(12)]
    async with (
        owner(nats_server, "cameras") as cameras,
        engine_node(nats_server, "first", SlowModel(0.05)) as first,
        engine_node(nats_server, "second", SlowModel(0.05)),
    ):
        await until(lambda: len(cameras.node.dispatcher.engines) == 2)
        for number, name in enumerate(names):
            cameras.node.submit(shot(number, at=0, stream=name))
        await until(lambda: bool(first.service._held))
        first.kill()
        await until(lambda: all(cameras.finals(name) for name in names))
        assert cameras.node.dispatcher.engines == ("second",)
        assert all(len(cameras.finals(name)) == 1 for name in names)
        assert cameras.node.dispatcher.resent > 0


async def test_a_draining_engine_answers_what_it_has(nats_server: NatsCluster) -> None:
    async with owner(nats_server, "cameras") as cameras, engine_node(nats_server, "gpu", SlowModel(0.05)) as gpu:
        await until(lambda: cameras.node.dispatcher.serves("mini"))
        for number in range(4):
            cameras.node.submit(shot(number, at=0, stream=f"cam{number}"))
        await until(lambda: bool(gpu.service._held))
        await gpu.service.drain(TIMEOUT_FACTOR)
        assert gpu.service.free == 0
        sent = 4 - cameras.node.dispatcher.waiting
        await until(lambda: len(cameras.outcomes) >= sent)
        assert cameras.node.dispatcher.given_up == cameras.node.dispatcher.resent == 0


async def test_a_sample_of_another_size_fails(nats_server: NatsCluster) -> None:
    async with owner(nats_server, "cameras") as cameras, engine_node(nats_server, "gpu"):
        await until(lambda: cameras.node.dispatcher.serves("mini"))
        outcome = await cameras.ask(replace(shot(1, at=0), pixels=np.zeros((16, 16, 3), np.uint8)))
        assert isinstance(outcome, Failed) and "takes samples of (32, 32, 3), not (16, 16, 3)" in outcome.reason


@pytest.mark.parametrize("body", [b"none", b"\0\0\0\2{}"])
async def test_strange_messages_are_skipped(nats_server: NatsCluster, body: bytes) -> None:
    async with owner(nats_server, "cameras") as cameras, engine_node(nats_server, "gpu") as gpu:
        await until(lambda: cameras.node.dispatcher.serves("mini"))
        for subject in ("sc.infer.gpu", "sc.demand", "sc.engines", "sc.answer.cameras.gpu", "$KV.models.mini"):
            await gpu.connection.client.publish(subject, body)
        assert isinstance(await cameras.ask(shot(1, at=0)), Captioned)
        await until(lambda: gpu.service.skipped == 2)
