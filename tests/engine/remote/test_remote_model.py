"""A remote model: what is sent, what is saved, what becomes of failures. The server is scripted, time is made."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamcap.engine.change_gate import ChangeGate, ChangeGateOptions
from streamcap.engine.model_settings import ModelSettings
from streamcap.engine.outcome import Captioned, Encoded, Failed, Interim, Outcome, Times, Unchanged
from streamcap.engine.remote.answer_stream import AnswerStream
from streamcap.engine.remote.circuit import Circuit
from streamcap.engine.remote.failure import RemoteError
from streamcap.engine.remote.remote_model import RemoteModel
from streamcap.media.frame import Sample, SampledImage
from testbed.timeouts import TIMEOUT_FACTOR
from tests.engine.fakes import sample

URL = "http://127.0.0.1:1/v1"
A, B, C = (np.eye(3, dtype=np.float32)[axis] for axis in range(3))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class ScriptedClient:
    """Each request waits until the test answers it.

    Two threads make the images of requests, so those of several streams may come in any order: `answer` takes the name
    of a stream where a test has several.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        """The stream of each request: `Running.put` makes it the prompt."""
        self.on_texts: list[Callable[[str], None]] = []
        self._answers: list[asyncio.Future[str]] = []
        self._changed = asyncio.Event()
        self.closed = False

    async def ask(self, body: bytes, on_text: Callable[[str], None] = lambda text: None) -> AnswerStream:
        self.asked.append(json.loads(body)["messages"][0]["content"][0]["text"])
        self.on_texts.append(on_text)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers.append(future)
        self._changed.set()
        answer = AnswerStream()
        answer.text = await future
        answer.usage.tokens_in, answer.usage.tokens_out = 300, 7
        return answer

    async def close(self) -> None:
        self.closed = True

    async def until_asked(self, count: int) -> None:
        async with asyncio.timeout(TIMEOUT_FACTOR):
            while len(self.asked) < count:
                self._changed.clear()
                await self._changed.wait()

    async def answer(self, request: int | str, text: str | RemoteError) -> None:
        """Answer a request, and let the model act on it.

        request: its number, from 0, or its stream, whose only request it is.
        """
        if isinstance(request, int):
            number = request
            await self.until_asked(number + 1)
        else:
            while request not in self.asked:
                await self.until_asked(len(self.asked) + 1)
            number = self.asked.index(request)
        if isinstance(text, RemoteError):
            self._answers[number].set_exception(text)
        else:
            self._answers[number].set_result(text)
        for _ in range(5):
            await asyncio.sleep(0)


class Running:
    def __init__(self, *, fallback: bool = False, **settings: Any) -> None:
        self.clock, self.client = Clock(), ScriptedClient()
        self.outcomes: list[Outcome] = []
        self.to_fallback: list[Sample] = []
        self.gate = ChangeGate(ChangeGateOptions(threshold=0.02))
        self.circuit = Circuit(self.clock)
        self.model = RemoteModel(
            "talker",
            ModelSettings("openai:m", url=URL, fallback="mini" if fallback else None, **settings),
            self.client,
            self.gate,
            self.outcomes.extend,
            fall_back=self.to_fallback.append if fallback else None,
            interim_interval=0.1,
            monotonic=self.clock,
            circuit=self.circuit,
        )

    def put(self, start: float, features: np.ndarray, stream: str = "door") -> Sample:
        image = SampledImage(np.zeros((8, 8, 3), np.uint8), 0.0)
        one = replace(sample(stream, (0, 0, 0), start, model="talker", encoder="mini"), images=(image,), prompt=stream)
        self.model.put(Encoded(one, features, Times(start, start, start)))
        return one

    @property
    def kinds(self) -> list[type[Outcome]]:
        return [type(outcome) for outcome in self.outcomes]


async def test_still_scene_saves_nearly_all_requests() -> None:
    running = Running()
    running.put(0.0, A)
    await running.client.answer(0, "A man.")
    for second in range(1, 60):
        running.put(float(second), A)
    statistics = running.model.statistics
    assert (statistics.sent, statistics.saved, statistics.captioned) == (1, 59, 1)
    assert statistics.saved / (statistics.sent + statistics.saved) >= 0.95
    assert running.kinds == [Captioned, *[Unchanged] * 59]
    assert (statistics.tokens_in, statistics.tokens_out, statistics.in_flight) == (300, 7, 0)
    await running.model.close()
    assert running.client.closed


async def test_newest_sample_is_compared_with_answer() -> None:
    running = Running()
    running.put(0.0, A)
    await running.client.until_asked(1)
    running.put(1.0, B)
    running.put(2.0, A)
    await running.client.answer(0, "A man.")
    assert running.kinds == [Captioned, Unchanged] and running.model.statistics.sent == 1
    assert running.model.statistics.superseded == {"door": 1}
    await running.model.close()


async def test_streams_share_requests_in_flight() -> None:
    running = Running(in_flight=2)
    for name in "abc":
        running.put(0.0, A, name)
    await running.client.until_asked(2)
    assert running.model.statistics.in_flight == 2
    await running.client.answer("a", "A man.")
    await running.client.answer("c", "A dog.")
    assert [(o.sample.stream, o.text) for o in running.outcomes if isinstance(o, Captioned)] == [
        ("a", "A man."),
        ("c", "A dog."),
    ]
    await running.model.close()


async def test_interim_texts_are_cleaned_and_limited() -> None:
    running = Running()
    running.put(0.0, A)
    await running.client.until_asked(1)
    on_text = running.client.on_texts[0]
    for text in ("<think>The", "<think>The man</think>", "<think>The man</think>The image", "<think>…</think>A man"):
        running.clock.now += 1
        on_text(text)
    on_text("A man opens")  # too soon after the one before
    await running.client.answer(0, '"A man opens a door."')
    assert [o.text for o in running.outcomes if isinstance(o, Interim | Captioned)] == ["A man", "A man opens a door."]
    await running.model.close()


async def test_failure_retries_newest_sample_after_pause() -> None:
    running = Running()
    running.put(0.0, A)
    await running.client.answer(0, RemoteError("no answer within 30 s"))
    assert running.kinds == [Failed]
    assert running.outcomes[0].reason == "model talker: no answer within 30 s"  # type: ignore[union-attr]
    assert running.model.notice() == "captioning failed: model talker: no answer within 30 s"
    running.put(1.0, B)
    assert len(running.client.asked) == 1, "the server is left alone"
    running.clock.now += running.circuit.pause
    running.put(2.0, B)
    await running.client.answer(1, "A dog.")
    assert running.kinds == [Failed, Captioned] and running.model.notice() == ""
    assert running.outcomes[-1].sample.start == 2.0
    await running.model.close()


async def test_long_pause_fails_samples_at_once() -> None:
    running = Running()
    running.put(0.0, A)
    await running.client.answer(0, RemoteError("401: wrong key", pause=60.0))
    for second in range(1, 5):
        running.put(float(second), B)
    assert running.kinds == [Failed] * 5
    assert len(running.client.asked) == 1 and running.model.statistics.held_back == 4
    await running.model.close()


async def test_interim_of_failed_request_becomes_final() -> None:
    """Also if the image is again that of the last final, for which no request is needed."""
    running = Running()
    running.put(0.0, A)
    await running.client.answer(0, "A man.")
    running.put(1.0, B)
    await running.client.until_asked(2)
    running.clock.now += 1
    running.client.on_texts[1]("A dog in the")
    await running.client.answer(1, RemoteError("the answer broke off before its end"))
    running.put(2.0, A)
    assert running.kinds == [Captioned, Interim, Failed, Captioned]
    assert running.outcomes[-1].text == "A man." and len(running.client.asked) == 2  # type: ignore[union-attr]
    running.put(3.0, A)
    assert running.kinds[-1] is Unchanged
    await running.model.close()


async def test_fallback_takes_over_and_hands_back() -> None:
    running = Running(fallback=True)
    running.put(0.0, A)
    await running.client.answer(0, RemoteError("connection refused"))
    (first,) = running.to_fallback
    assert first.notice == "model talker: connection refused; mini captions meanwhile"
    running.put(1.0, B)
    assert len(running.client.asked) == 1, "the pause is not over"
    running.clock.now += 5
    running.put(2.0, C)
    await running.client.answer(1, RemoteError("connection refused"))
    running.clock.now += 5
    running.put(3.0, A)
    await running.client.answer(2, "A trial, which nobody reads.")
    assert [one.start for one in running.to_fallback] == [0.0, 1.0, 2.0, 3.0]
    assert running.outcomes == [] and running.model.notice() == ""
    running.put(4.0, B)
    await running.client.answer(3, "A dog.")
    assert running.kinds == [Captioned] and len(running.to_fallback) == 4
    assert running.model.statistics.fallbacks == 4 and running.model.statistics.failed == 2
    await running.model.close()


async def test_server_is_tried_again_when_the_pause_is_over() -> None:
    """With the newest sample, not only when another one comes: it may take long."""
    running = Running(fallback=True)
    running.put(0.0, A)
    await running.client.answer(0, RemoteError("connection refused"))
    running.put(1.0, B)
    running.clock.now += 5
    await running.client.until_asked(2)
    await running.client.answer(1, "A trial, which nobody reads.")
    running.put(2.0, C)
    await running.client.answer(2, "A dog.")
    assert [one.start for one in running.to_fallback] == [0.0, 1.0] and running.kinds == [Captioned]
    await running.model.close()


async def test_waiting_samples_go_to_fallback() -> None:
    running = Running(fallback=True, in_flight=1)
    for name in "abc":
        running.put(0.0, A, name)
    running.put(1.0, B, "a")
    await running.client.answer(0, RemoteError("the answer broke off"))
    assert sorted((one.stream, one.start) for one in running.to_fallback) == [("a", 1.0), ("b", 0.0), ("c", 0.0)]
    await running.model.close()


async def test_sample_behind_a_request_in_flight_stays_behind_it() -> None:
    """Or the fallback would caption a newer sample of the stream before the older one."""
    running = Running(fallback=True)
    running.put(0.0, A, "a")
    running.put(0.0, A, "b")
    await running.client.until_asked(2)
    running.put(1.0, B, "b")
    await running.client.answer("a", RemoteError("the answer broke off"))
    assert [(one.stream, one.start) for one in running.to_fallback] == [("a", 0.0)]
    await running.client.answer("b", RemoteError("the answer broke off"))
    assert [(one.stream, one.start) for one in running.to_fallback] == [("a", 0.0), ("b", 1.0)]
    await running.model.close()


async def test_answer_after_change_of_model_is_dropped() -> None:
    running = Running()
    running.put(0.0, A)
    await running.client.until_asked(1)
    running.gate.commit(sample("door", (0, 0, 0), 5.0, model="mini"), B, "a dog")
    await running.client.answer(0, "A man.")
    assert running.outcomes == []
    await running.model.close()


async def test_removed_stream_sends_nothing_more() -> None:
    running = Running()
    running.put(0.0, A)
    await running.client.until_asked(1)
    running.put(1.0, B)
    running.model.forget("door")
    for _ in range(5):
        await asyncio.sleep(0)
    assert running.model.statistics.in_flight == 0 and running.outcomes == [] and len(running.client.asked) == 1
    await running.model.close()


@pytest.mark.parametrize("answer", ["<think>Hm", '""', "  "])
async def test_answer_without_a_caption_is_a_failure(answer: str) -> None:
    running = Running()
    running.put(0.0, A)
    await running.client.answer(0, answer)
    (failed,) = running.outcomes
    assert isinstance(failed, Failed) and "the answer has no caption" in failed.reason
    await running.model.close()
