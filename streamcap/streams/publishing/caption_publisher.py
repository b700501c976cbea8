"""`CaptionPublisher`: turns the engine's outcomes and the source's states into events of one stream."""

from __future__ import annotations

import asyncio
import logging

from streamcap.captions.caption import Caption
from streamcap.captions.event import Status, StreamState
from streamcap.captions.track import CaptionTrack
from streamcap.engine.outcome import Captioned, Failed, Interim, Outcome, Unchanged, Unconfirmed
from streamcap.media.frame import Sample
from streamcap.redact import redact
from streamcap.streams.counters import Counters
from streamcap.streams.pending_samples import PendingSamples
from streamcap.streams.publishing.feed_writer import FeedWriter
from streamcap.streams.publishing.sample_times import latency_of, sample_time
from streamcap.streams.publishing.stream_status import StreamStatus
from streamcap.streams.settings import StreamSettings
from streamcap.streams.stream_deps import StreamDeps

log = logging.getLogger(__name__)


class CaptionPublisher:
    """Publishes one stream's captions and states: track → `FeedWriter` → viewers. On the event loop."""

    def __init__(self, name: str, settings: StreamSettings, deps: StreamDeps, first: Counters | None = None) -> None:
        self.name = name
        self.settings = settings
        self._deps = deps
        self._every = deps.options.every if settings.every is None else settings.every
        self._feed = FeedWriter(name, self._every, deps, first, self._set_disk)
        self.track = CaptionTrack(name, every=self._every, window=self._feed.window)
        self._status = StreamStatus(name)
        self.pending = PendingSamples()
        """The samples that wait for their outcome."""
        self.captions = 0
        self.extended = 0
        self.skipped = 0
        self.held_back = 0
        """Captions that were not published, because the model was not sure enough."""
        self._holds_back = False  # the image has changed, but what it shows now is held back
        self._interims_allowed = self.min_confidence == 0  # until a caption shows that the model gives no confidence

    # -- begin and end

    async def open(self) -> None:
        """Continue an earlier stream of this name, or its files. Raises OSError, FilesLockedError."""
        shown = await self._feed.open()
        number = self._feed.begin.caption
        self.track = CaptionTrack(self.name, every=self._every, window=self._feed.window, next_number=number)
        for caption in shown:
            self.track.restore(caption)

    def change(self, settings: StreamSettings, every: float) -> None:
        """Use other settings, and `every` seconds as the length of a caption, from the next outcome on."""
        self.settings = settings
        self.track.every = self._feed.published.every = self._every = every
        self._interims_allowed = self.min_confidence == 0

    def register(self) -> None:
        """Make the stream visible to viewers."""
        self._feed.register()

    def fail(self, reason: str) -> None:
        """The stream failed before its numbers were known: the status takes none."""
        self._status.source = redact(reason)
        self._status.update(StreamState.FAILED)
        log.error("stream %s is failed: %s", self.name, self.reason, extra={"stream": self.name})
        self._feed.fail(Status(self.name, self.state, self.reason))

    def counters(self) -> Counters:
        """Where the next stream of this name starts."""
        return self._feed.counters().union(Counters(caption=self.track.next_number, time=self.track.end))

    @property
    def begin(self) -> Counters:
        """Where this stream starts. After `open`."""
        return self._feed.begin

    @property
    def published(self) -> CaptionTrack:
        """The captions that viewers may see."""
        return self._feed.published

    @property
    def state(self) -> StreamState:
        return self._status.state

    @property
    def reason(self) -> str:
        """All present reasons, as in the status event."""
        return self._status.reason

    @property
    def min_confidence(self) -> float:
        """Captions of a lower confidence are held back."""
        own = self.settings.min_confidence
        return self._deps.options.min_confidence if own is None else own

    @property
    def dropped_finals(self) -> int:
        """Finals that no viewer received, because the disk failed or hung for too long."""
        return self._feed.dropped_finals

    @property
    def waiting_finals(self) -> int:
        """Finals that no viewer has received, since they are not stored yet."""
        return self._feed.waiting_finals

    async def run(self) -> None:
        """Keep the files up to date until `close`. Do not cancel it."""
        await self._feed.run(self.counters)

    def close(self) -> None:
        """Tell `run` to write the waiting events and return."""
        self._feed.close()

    def confirm(self) -> None:
        """Let the store find out whether this is still the stream's writer."""
        self._feed.confirm()

    async def release_files(self) -> None:
        """Release the files. Idempotent."""
        await self._feed.release_files()

    # -- what is published

    def on_outcome(self, outcome: Outcome) -> None:
        """Handle the engine's outcome of one sample."""
        sample = outcome.sample
        if not self.pending.accepts(sample):
            return
        if not isinstance(outcome, Interim):
            self.pending.answer(sample)
            reason = f"captioning failed: {outcome.reason}" if isinstance(outcome, Failed) else sample.notice
            self._set_model(redact(reason))
        if isinstance(outcome, Captioned) and not sample.images:
            self._deps.phases.note(outcome.times.decoded - outcome.times.taken)
        match outcome:
            case Interim() if not (self._interims_allowed or sample.images):
                pass  # its confidence is not known yet; remote models give none
            case Interim():
                latency = latency_of(sample, outcome.times)
                caption = self.track.interim(sample_time(sample), outcome.text, latency)
                self._publish_caption(caption, answer_ms=latency.decode if sample.images else 0.0)
            case Captioned(confidence=confidence) if confidence is not None and confidence < self.min_confidence:
                self._hold_back()
            case Captioned():
                self._holds_back = False
                self._interims_allowed = self.min_confidence == 0 or outcome.confidence is None
                first = outcome.first
                latency = latency_of(sample, outcome.times, first)
                caption = self.track.final(
                    sample_time(first or sample), outcome.text, outcome.logprob, latency, outcome.confidence
                )
                self.captions += 1
                self._publish_caption(caption, answer_ms=caption.latency.decode if sample.images else 0.0)
                if first is not None:
                    self._extend(sample)
            case Unchanged():
                self.skipped += not outcome.decoded
                self._end_interim(repeat=not self._holds_back)
                # The newest final is of the image before the one that was held back.
                if not self._holds_back:
                    self._extend(sample)
            case Unconfirmed() | Failed():
                pass  # the next sample decides; the status is set above

    def set_state(self, state: StreamState, reason: str = "") -> None:
        """Set the source's state and its reason."""
        self._status.source = redact(reason)
        self._publish_status(state)

    def close_cue(self, now: float) -> None:
        """The stream ends at output time `now`: end the current caption there, and take no more outcomes."""
        # They would be neither in the files nor within the closed cue.
        self.pending.close()
        extend = self.track.close(now)
        if extend is not None:
            self._feed.publish(extend)
            self._feed.touch_cues()
        self._end_interim(repeat=False)

    def _publish_caption(self, caption: Caption, answer_ms: float = 0.0) -> None:
        """`answer_ms`: milliseconds that do not count as age: those of a remote model, which may answer slowly."""
        age = caption.latency.total - answer_ms
        self._feed.publish(caption, live=age / 1000 <= self._deps.options.max_age)
        if caption.is_final:
            self._feed.touch_cues()

    def _hold_back(self) -> None:
        """The image has changed and the model is not sure what it shows: end the open interim, publish no caption."""
        self.held_back += 1
        self._holds_back, self._interims_allowed = True, False
        self._end_interim(repeat=False)
        self._feed.clear_current()

    def _end_interim(self, *, repeat: bool) -> None:
        """End the interim of a request that failed, if one is open: no caption of its image follows."""
        final = self.track.end_interim(repeat=repeat)
        if final is not None:
            self._feed.publish(final)
            self._feed.touch_cues()

    def _extend(self, sample: Sample) -> None:
        """Extend the newest final to `sample`."""
        extend = self.track.extend(sample_time(sample))
        if extend is not None:
            self.extended += 1
            self._feed.publish(extend)
            self._feed.touch_cues()

    def _set_model(self, reason: str) -> None:
        if reason != self._status.model:
            self._status.model = reason
            self._publish_status(self.state)

    def set_load(self, reason: str) -> None:
        """Say that captions come less often; empty: as often as configured."""
        if reason != self._status.load:
            self._status.load = reason
            if self._feed.has_status:
                self._publish_status(self.state)

    def _set_disk(self, reason: str) -> None:
        if reason != self._status.disk:
            self._status.disk = reason
            self._publish_status(self.state)

    def _publish_status(self, state: StreamState) -> None:
        """Publish the state and all present reasons: of the source, the model, the disk and the load."""
        if self._status.update(state) or not self._feed.has_status:
            self._status.log()
            self._feed.publish(Status(self.name, state, self.reason))


async def wait_through_cancel(task: asyncio.Task[None]) -> None:
    """Wait until `task` is done, also if the caller is cancelled; then raise that cancellation."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
