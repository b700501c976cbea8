"""`RemoteModel`: captions samples through a server: gate, queue, requests, answers, failures. On the event loop."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from PIL import Image

from streamcap.daemon_pool import DaemonPool, PoolFullError
from streamcap.engine.change_gate import ChangeGate, Verdict
from streamcap.engine.interim_filter import InterimFilter
from streamcap.engine.model_settings import ModelSettings
from streamcap.engine.outcome import Captioned, Encoded, Failed, Interim, Outcome, Unchanged, Unconfirmed
from streamcap.engine.remote.answer_stream import AnswerStream
from streamcap.engine.remote.circuit import Circuit
from streamcap.engine.remote.clean_answer import clean_answer, clean_partial, has_hidden_reasoning
from streamcap.engine.remote.failure import RemoteError
from streamcap.engine.remote.request import JpegImage, body
from streamcap.engine.remote.request_queue import RequestQueue
from streamcap.engine.statistics import RemoteStatistics
from streamcap.media.frame import Pixels, Sample

log = logging.getLogger(__name__)

LONG_PAUSE_S = 5.0
"""A changed image that would wait longer for a failing server is reported as failed at once."""
ENCODE_THREADS = 2


class Client(Protocol):
    """What is needed of `RemoteClient`."""

    async def ask(self, body: bytes, on_text: Callable[[str], None] = ...) -> AnswerStream: ...
    async def close(self) -> None: ...


class RemoteModel:
    """Takes samples whose image a local model has embedded (`Encoded`), delivers outcomes of each stream in order.

    A stream has at most one request in flight. While it is, the stream's newest sample waits. An unchanged image needs
    no request. After a failure the server is left alone for a pause (see `Circuit`); meanwhile the fallback captions,
    or nobody, and a `Failed` outcome has the reason. The answers of requests that only try whether the server is well
    again are not published, since the fallback has captioned those samples.

    Parameters:
        gate: of the engine, which knows the last final of each stream.
        deliver: takes outcomes.
        fall_back: takes a sample for the fallback, from any thread; None: no fallback.
        interim_interval: minimum seconds between interim texts of a caption; 0: none.
        statistics: counted on, of an earlier model of this name.
    """

    def __init__(
        self,
        name: str,
        settings: ModelSettings,
        client: Client,
        gate: ChangeGate,
        deliver: Callable[[list[Outcome]], None],
        *,
        fall_back: Callable[[Sample], None] | None,
        interim_interval: float,
        monotonic: Callable[[], float] = time.monotonic,
        circuit: Circuit | None = None,
        statistics: RemoteStatistics | None = None,
    ) -> None:
        self.name = name
        self.statistics = statistics or RemoteStatistics()
        self._settings = settings
        self._client = client
        self._gate = gate
        self._deliver = deliver
        self._fall_back = fall_back
        self._interim_interval = interim_interval
        self._monotonic = monotonic
        self._circuit = circuit or Circuit(monotonic)
        self._queue = RequestQueue(settings.in_flight, self.statistics.superseded)
        self._pool = DaemonPool(f"remote-{name}", max_threads=ENCODE_THREADS, max_waiting=settings.in_flight + 2)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._probe: asyncio.Task[None] | None = None
        self._newest: Sample | None = None
        """The newest sample that only the fallback has seen: the one to try the server with."""
        self._timer: asyncio.TimerHandle | None = None
        self._open_interims: set[str] = set()
        """Streams whose newest interim text has no final yet, because its request failed."""
        self._retried: dict[str, Sample] = {}
        self._hides_reasoning = False
        self._closed = False

    def notice(self) -> str:
        """Why requests fail at present, for a status; empty if they do not. From any thread."""
        reason = self._circuit.reason
        return self._notice(reason) if reason else ""

    def _notice(self, reason: str) -> str:
        if self._fall_back is None:
            return f"captioning failed: {reason}"
        return f"{reason}; {self._settings.fallback} captions meanwhile"

    def put(self, encoded: Encoded) -> None:
        """Take a sample."""
        if self._closed:
            return
        if self._queue.is_in_flight(encoded.sample.stream):
            self._queue.put(encoded)  # what it must differ from is not known yet
        else:
            self._judge(encoded)

    def forget(self, stream: str) -> None:
        """A stream was removed, or uses another model."""
        self._queue.forget(stream)
        self._open_interims.discard(stream)
        self._retried.pop(stream, None)
        if self._newest is not None and self._newest.stream == stream:
            self._newest = None
        if (task := self._tasks.get(stream)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Cancel all requests. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._tasks.values(), *([self._probe] if self._probe is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.close()
        self._pool.close()

    # -- which samples are sent

    def _judge(self, encoded: Encoded) -> None:
        """Send a sample whose image has changed."""
        if self._is_unchanged(encoded):
            self._keep(encoded)
        elif not self._circuit.is_closed and self._fall_back is not None:
            self._to_fallback(encoded.sample, self._circuit.reason)
            self._try(encoded.sample)
        else:
            self._queue.put(encoded)
            if self._circuit.pause > LONG_PAUSE_S:
                self.statistics.held_back += 1
                self._deliver([Failed(encoded.sample, self._circuit.reason)])
            self._pump()

    def _is_unchanged(self, encoded: Encoded) -> bool:
        return self._gate.is_unchanged(self._gate.distance(encoded.sample, encoded.features))

    def _keep(self, encoded: Encoded) -> None:
        """The image is that of the last final."""
        sample = encoded.sample
        self.statistics.saved += 1
        self._queue.drop(sample.stream)
        if sample.stream in self._open_interims:
            # Viewers wait for the final of an interim text whose request failed: the last final is true again.
            text = self._gate.last_text(sample)
            self._open_interims.discard(sample.stream)
            self._gate.commit(sample, encoded.features, text)
            self._deliver([Captioned(sample, text, None, encoded.times)])
            return
        self._gate.mark_unchanged(sample)
        self._deliver([Unchanged(sample, decoded=False)])
        if not self._circuit.is_closed and self._fall_back is not None:
            self._try(sample)

    def _pump(self) -> None:
        """Start as many requests as may be in flight."""
        while not self._closed:
            if (pause := self._circuit.pause) > 0:
                self._wake_after(pause)
                return
            if not self._circuit.may_begin:
                return  # the request that tries pumps when it ends
            encoded = self._queue.take()
            if encoded is None:
                return
            stream = encoded.sample.stream
            if self._is_unchanged(encoded):  # compared with a final that is newer than the sample
                self._queue.done(stream)
                self._keep(encoded)
                continue
            self._circuit.begin()
            self._tasks[stream] = asyncio.create_task(self._request(encoded), name=f"request-{self.name}-{stream}")

    def _wake_after(self, pause: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if len(self._queue) or self._newest is not None:
            self._timer = asyncio.get_running_loop().call_later(pause + 0.001, self._wake)

    def _wake(self) -> None:
        """The pause is over."""
        if self._newest is not None and not self._circuit.is_closed:
            self._try(self._newest)
        self._pump()

    # -- requests

    async def _request(self, encoded: Encoded) -> None:
        sample = encoded.sample
        distance = self._gate.distance(sample, encoded.features)
        last_text = self._gate.last_text(sample) if self._gate.is_changed(distance) else None
        interim = InterimFilter(last_text, interval=self._interim_interval, begin=encoded.times.encoded)

        def on_text(text: str) -> None:
            now = self._monotonic()
            if not interim.is_due(now) or (self._hides_reasoning and not has_hidden_reasoning(text)):
                return
            shown = clean_partial(text)
            if interim.accept(shown, now):
                self._deliver([Interim(sample, shown, replace(encoded.times, decoded=now))])

        try:
            text = await self._ask(sample, on_text)
        except RemoteError as error:
            self._release(sample.stream)
            self._fail(encoded, error, shown=interim.shown)
        except BaseException:  # re-raised: cancelled, or a bug
            self._circuit.abandon()
            self._release(sample.stream)
            raise
        else:
            self._release(sample.stream)
            self._circuit.succeed()
            self._settle(encoded, distance, text, shown=interim.shown or sample.stream in self._open_interims)
        finally:
            self._pump()

    def _release(self, stream: str) -> None:
        self._tasks.pop(stream, None)
        self._queue.done(stream)

    async def _ask(self, sample: Sample, on_text: Callable[[str], None] = lambda text: None) -> str:
        """The caption. Raises RemoteError."""
        began, statistics = self._monotonic(), self.statistics
        statistics.sent += 1
        statistics.in_flight += 1
        try:
            last = self._gate.last_text(sample) if self._settings.context else ""
            content = await self._pool.run(_body, self._settings, sample, last)
            answer = await self._client.ask(content, on_text)
            statistics.tokens_in += answer.usage.tokens_in
            statistics.tokens_out += answer.usage.tokens_out
            if has_hidden_reasoning(answer.text):
                self._hides_reasoning = True
            text = clean_answer(answer.text)
            if not text:
                raise RemoteError("the answer has no caption" + (", only reasoning" if answer.text.strip() else ""))
        except PoolFullError as error:
            raise RemoteError(str(error)) from None
        finally:
            statistics.in_flight -= 1
            statistics.seconds += self._monotonic() - began
        return text

    def _settle(self, encoded: Encoded, distance: float, text: str, *, shown: bool) -> None:
        """The answer of a request becomes an outcome."""
        sample = encoded.sample
        self._open_interims.discard(sample.stream)
        self._retried.pop(sample.stream, None)
        if self._gate.is_outdated(sample):  # the stream has used another model meanwhile
            self.statistics.duplicates += 1
            return
        judgement = self._gate.settle(sample, encoded.features, distance, text, shown=shown)
        match judgement.verdict:
            case Verdict.UNCHANGED:
                self.statistics.duplicates += 1
                self._deliver([Unchanged(sample, decoded=True)])
            case Verdict.UNCONFIRMED:
                self.statistics.unconfirmed += 1
                self._deliver([Unconfirmed(sample)])
            case Verdict.CHANGED:
                self.statistics.captioned += 1
                times = replace(encoded.times, decoded=self._monotonic())
                self._deliver([Captioned(sample, text, None, times, judgement.first)])

    # -- failures

    def _fail(self, encoded: Encoded, error: RemoteError, *, shown: bool) -> None:
        sample, stream = encoded.sample, encoded.sample.stream
        reason = self._report(error)
        if shown:
            self._open_interims.add(stream)
        if self._fall_back is not None:
            for waiting in self._queue.drop_waiting():
                if waiting.sample.stream == stream:
                    sample = waiting.sample  # newer
                else:
                    self._to_fallback(waiting.sample, reason)
            self._to_fallback(sample, reason)
            self._try(sample)
            return
        self._deliver([Failed(sample, reason)])
        if self._circuit.pause <= LONG_PAUSE_S and self._retried.get(stream) is not sample:
            self._retried[stream] = sample
            if not self._queue.is_waiting(stream):
                self._queue.put(encoded)

    def _report(self, error: RemoteError) -> str:
        """Count a failed request, and leave the server alone for a while. Returns the reason for a status."""
        reason = f"model {self.name}: {error.reason}"
        if reason != self._circuit.reason:
            log.warning("%s", reason)
        self.statistics.failed += 1
        self._circuit.fail(reason, error.pause)
        return reason

    def _to_fallback(self, sample: Sample, reason: str) -> None:
        if self._fall_back is None:
            return
        self.statistics.fallbacks += 1
        if sample.stream in self._open_interims:
            # Its caption must become the final of the interim text, also if it repeats the last final.
            self._gate.forget(sample.stream)
            self._open_interims.discard(sample.stream)
        self._fall_back(replace(sample, notice=self._notice(reason)))

    def _try(self, sample: Sample) -> None:
        """Find out with `sample` whether the server is well again, now or when the pause is over."""
        if self._closed:
            return
        if self._circuit.begin():
            self._newest = None
            self._probe = asyncio.create_task(self._try_now(sample), name=f"probe-{self.name}")
            return
        self._newest = sample
        if (pause := self._circuit.pause) > 0:  # else a request is trying already
            self._wake_after(pause)

    async def _try_now(self, sample: Sample) -> None:
        try:
            await self._ask(sample)
        except RemoteError as error:
            self._report(error)
            self._wake_after(self._circuit.pause)
        except BaseException:  # re-raised: cancelled, or a bug
            self._circuit.abandon()
            raise
        else:
            self._newest = None
            self._circuit.succeed()
            log.info("model %s answers again", self.name)


def _body(settings: ModelSettings, sample: Sample, last_caption: str) -> bytes:
    images = [JpegImage(to_jpeg(image.pixels, settings.jpeg_quality), image.age) for image in sample.images]
    return body(settings, images, prompt=sample.prompt, last_caption=last_caption)


def to_jpeg(pixels: Pixels, quality: int) -> bytes:
    """uint8 RGB (H, W, 3) as JPEG."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality)
    return content.getvalue()
