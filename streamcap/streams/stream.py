"""`Stream`: the supervisor of one stream: opens the source, watches it, and reconnects."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

from streamcap.captions.event import StreamState
from streamcap.captions.track import CaptionTrack
from streamcap.errors import StreamcapError
from streamcap.media.demand import FrameDemand
from streamcap.media.frame import Frame
from streamcap.media.ring import FrameRing
from streamcap.media.sources.address import HostScope
from streamcap.media.sources.base import SourceEnded, SourceInfo, SourceRefused
from streamcap.media.sources.push import PushSource
from streamcap.media.sources.url import NETWORK, scheme_of
from streamcap.media.timing.schedule import Schedule
from streamcap.media.timing.timeline import Timeline
from streamcap.redact import redact
from streamcap.streams.backoff import Backoff
from streamcap.streams.counters import Counters
from streamcap.streams.overload import StreamLoad
from streamcap.streams.publishing.caption_publisher import CaptionPublisher, wait_through_cancel
from streamcap.streams.settings import MAX_EVERY, StreamSettings
from streamcap.streams.snapshot import StreamSnapshot
from streamcap.streams.source.loop_listener import LoopListener
from streamcap.streams.source.source_thread import SourceStatistics, SourceThread
from streamcap.streams.stream_deps import StreamDeps

STALL_CHECK_S = 0.25
# A connection that gave frames for this long resets the backoff.
STABLE_AFTER_S = 10.0
# How long a removed stream waits for its source thread. After that the daemon thread ends at its read timeout.
SOURCE_STOP_TIMEOUT_S = 1.0
# How long a stream whose source has ended waits for the caption of the last sample.
DRAIN_TIMEOUT_S = 30.0


def _ring_bounds(deps: StreamDeps, settings: StreamSettings) -> dict[str, Any]:
    """For the frames that a sample is made from: several for each frame of a clip model, else only the newest."""
    seconds, clip_length = deps.options.clip_seconds, deps.models.get(settings.model).clip_length
    if clip_length is None:
        return {"seconds": seconds, "frames": 1}
    steps = 4 * clip_length
    spacing = seconds / steps
    # One spacing more, because frames do not fall on the window's edges. Both edges and the newest frame count.
    return {"seconds": seconds + spacing, "frames": steps + 3, "spacing": spacing}


def _shown_settings(settings: StreamSettings) -> dict[str, Any]:
    """The settings as fields of a StreamSnapshot, except those that it has from elsewhere (interval, model)."""
    shown = settings.as_json()
    return {name: shown.get(name) for name in ("prompt", "mask", "decode", "min_confidence", "labels")}


class Stream:
    """All methods run on the event loop. `StreamSet` owns the one task, `run`."""

    def __init__(
        self,
        name: str,
        url: str,
        settings: StreamSettings,
        deps: StreamDeps,
        first: Counters | None = None,
        *,
        scope: HostScope = HostScope.ANY,
    ) -> None:
        self.name = name
        self.url = redact(url)
        self.settings = settings
        """As given: None is the default of the service."""
        self.scope = scope
        """The hosts that the source may connect to."""
        self.info: SourceInfo | None = None
        self.source_statistics = SourceStatistics()
        self.reconnections = 0
        self.skips_ahead = 0
        """Connections that were given up because too much video waited in them."""
        self.is_machine_slow = False
        """Whether this machine may be the cause of what takes too long."""
        self.publisher = CaptionPublisher(name, settings, deps, first)
        self.stop_status = StreamState.ENDED, "stopped"
        """State and reason that are published when the stream is stopped."""
        self._secret_url = url
        self._deps = deps
        self._timeline = Timeline()
        self._ring = FrameRing(**_ring_bounds(deps, settings), mask=settings.mask)
        self._demand = FrameDemand()
        self._source_thread: SourceThread | None = None
        self._stretch = 1.0
        self._update_demand()

    def elsewhere(self) -> str | None:
        """Where the stream's frames are: URL, or name, of the other machine that runs it; None: here."""
        return None

    @property
    def track(self) -> CaptionTrack:
        """The captions that viewers may see."""
        return self.publisher.published

    @property
    def every(self) -> float:
        """Seconds between captions."""
        return self._deps.options.every if self.settings.every is None else self.settings.every

    @property
    def effective_every(self) -> float:
        """Seconds between captions now: more than `every` while the service is overloaded."""
        return min(self.every * self._stretch, MAX_EVERY)

    @property
    def state(self) -> StreamState:
        return self.publisher.state

    @property
    def source_url(self) -> str:
        """Includes the password; never show it."""
        return self._secret_url

    async def prepare(self) -> None:
        """Lock the files and continue the numbers and the time of an earlier stream of this name.

        Raises OSError; FilesLockedError if another stream or process writes the files.
        """
        await self.publisher.open()
        begin = self.publisher.begin
        self._timeline = Timeline(begin.time, begin.epoch)

    async def unlock(self) -> None:
        """Release the files. Idempotent."""
        await self.publisher.release_files()

    def fail(self, reason: str) -> None:
        """Show the stream as `failed`; its task is never started."""
        self.publisher.fail(reason)

    def counters(self) -> Counters:
        """Where the next stream of this name starts."""
        return self.publisher.counters().union(Counters(epoch=self._timeline.epoch, time=self._timeline.last))

    def register(self) -> None:
        """Make the stream visible to viewers."""
        self.publisher.register()

    async def run(self) -> None:
        """Read until the source has ended for good. On cancellation, close the last cue and the files."""
        publishing = asyncio.create_task(self.publisher.run(), name=f"files-{self.name}")
        try:
            await self._supervise()
        except asyncio.CancelledError:
            self.publisher.set_state(*self.stop_status)
            # Reference cycles keep a removed stream in memory until the next collection; its frames are large.
            self._ring.clear()
            raise
        finally:
            self.publisher.close_cue(self._timeline.last)
            try:
                self.publisher.close()
                await wait_through_cancel(publishing)
            finally:
                await self.unlock()

    def change(self, settings: StreamSettings) -> None:
        """Use other settings. The camera and the viewers stay connected; frames and numbers continue.

        A changed mask acts on the next frame; earlier ones are forgotten.
        """
        if settings.mask != self.settings.mask:
            self._ring.set_mask(settings.mask)
        self.settings = settings
        self._ring.resize(**_ring_bounds(self._deps, settings))
        self._apply()

    def set_stretch(self, stretch: float) -> None:
        """Caption `stretch` times less often than configured, and say so, because the service is overloaded."""
        if stretch != self._stretch:
            self._stretch = stretch
            self._apply()

    def _apply(self) -> None:
        every = self.effective_every
        self.publisher.change(self.settings, every)
        less = f"overloaded: a caption every {every:.3g} s, not every {self.every:g} s" if every > self.every else ""
        self.publisher.set_load(less)
        self._update_demand()
        if self._source_thread is not None:
            self._source_thread.change(self.settings, every)

    def load(self, now: float) -> StreamLoad | None:
        """How late its captions are because of this machine; None unless the stream is live."""
        thread = self._source_thread
        if self.state is not StreamState.LIVE or thread is None:
            return None
        lag = self.publisher.pending.delay(now)
        if thread.lag.is_ours() and self.info is not None and self.info.live:
            lag += thread.lag.seconds
            if (alive_at := thread.alive_at()) is not None:
                lag += max(0.0, now - alive_at - self._deps.options.stall_after)
        return StreamLoad(self.every, lag)

    def view(self) -> StreamSnapshot:
        """The stream's present state."""
        info = self.info or SourceInfo(0, 0, 0.0, "", live=True)
        publisher, last, model = self.publisher, self.track.last, self._deps.models.get(self.settings.model)
        now = time.monotonic()
        load, caption_age = self.load(now), publisher.pending.age(now)
        return StreamSnapshot(
            name=self.name,
            url=self.url,
            every=self.every,
            effective_every=self.effective_every,
            lag=0.0 if load is None else round(load.lag, 3),
            late=load is not None and load.late,
            caption_age=None if caption_age is None else round(caption_age, 3),
            state=self.state.value,
            reason=publisher.reason,
            width=info.width,
            height=info.height,
            frames_per_second=info.frames_per_second,
            codec=info.codec,
            epoch=max(0, self._timeline.epoch),
            frames=self.source_statistics.frames,
            sampled=self.source_statistics.sampled,
            captions=publisher.captions,
            extended=publisher.extended,
            reconnections=self.reconnections,
            skips_ahead=self.skips_ahead,
            source=dict(self._source_thread.source.statistics()) if self._source_thread is not None else {},
            last_caption=None if last is None else last.as_json(),
            decode_skipped=publisher.skipped,
            samples_missed=self.source_statistics.samples_missed,
            frame_conversion_errors=self.source_statistics.frame_conversion_errors,
            captions_held_back=publisher.held_back,
            files_dropped=publisher.dropped_finals,
            model=model.name,
            model_description=model.description,
            **_shown_settings(self.settings),
        )

    def newest_frame(self) -> Frame | None:
        """The newest decoded frame, masked, for previews. From any thread; masking may take a millisecond."""
        return self._ring.newest()

    def watch(self) -> None:
        """Somebody watches the video: decode every frame from now on. Call `unwatch` as often."""
        self._demand.viewers += 1

    def unwatch(self) -> None:
        """One who watched the video has left."""
        self._demand.viewers -= 1

    def _update_demand(self) -> None:
        options = self._deps.options
        self._demand.decode = self.settings.decode or options.decode
        self._demand.every = min(self.effective_every, self._deps.frame_spacing(self.settings.model))

    def push_source(self) -> PushSource | None:
        """The source that a WHIP publisher feeds; None if this is not a `whip:` stream."""
        source = self._source_thread.source if self._source_thread is not None else None
        return source if isinstance(source, PushSource) else None

    async def _supervise(self) -> None:
        """Read from one connection after another. Decides whether to reconnect, and when."""
        options, publisher = self._deps.options, self.publisher
        backoff = Backoff(options.min_retry_delay, options.max_retry_delay)
        refusals = Backoff(options.min_refused_delay, options.max_refused_delay)
        connection_no = 0
        publisher.set_state(StreamState.CONNECTING)
        while True:
            began, frames = time.monotonic(), self.source_statistics.frames
            end = self._cause(await self._read(connection_no))
            connection_no += 1
            if isinstance(end, _SkippedAheadError):
                self.skips_ahead += 1
                continue
            if isinstance(end, SourceEnded):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(DRAIN_TIMEOUT_S):
                        await publisher.pending.drain()
                publisher.set_state(StreamState.ENDED, str(end))
                return
            if isinstance(end, SourceRefused) and not end.retry:
                publisher.set_state(StreamState.FAILED, str(end))
                if not self._may_recover:
                    return
                # Somebody may mend it at the camera. The status stays until the camera answers differently.
                await asyncio.sleep(refusals.next())
                continue
            if self.source_statistics.frames > frames and time.monotonic() - began >= STABLE_AFTER_S:
                backoff.reset()
                refusals = Backoff(options.min_refused_delay, options.max_refused_delay)
            self.reconnections += 1
            publisher.set_state(StreamState.RECONNECTING, str(end))
            if self.push_source() is None:  # a publisher connects to us, so a pause spares nobody
                await asyncio.sleep(backoff.next())

    def _cause(self, end: StreamcapError | None) -> StreamcapError | None:
        """`end`; where opening took too long because of this machine, words that do not blame the camera."""
        if not isinstance(end, SourceRefused) or not end.timed_out:
            return end
        if not self.is_machine_slow and not (self._source_thread is not None and self._source_thread.starved):
            return end
        seconds = self._deps.options.open_timeout
        overloaded = f"{self.url}: opening took longer than {seconds:g} s while this machine is overloaded"
        return SourceRefused(overloaded, retry=True)

    @property
    def _may_recover(self) -> bool:
        return scheme_of(self._secret_url) in (*NETWORK, "webcam")

    async def _read(self, connection_no: int) -> StreamcapError | None:
        """One connection to the source. Returns why it ended."""
        listener = LoopListener(self)
        source = self._deps.open_source(self._secret_url, self.scope)
        source.demand = self._demand
        source_thread = self._source_thread = SourceThread(
            self.name,
            source,
            self._deps,
            listener,
            connection_no=connection_no,
            ring=self._ring,
            schedule=Schedule(self.effective_every),
            settings=self.settings,
            timeline=self._timeline,
            statistics=self.source_statistics,
            pending=self.publisher.pending,
        )
        source_thread.start()
        end = listener.end
        try:
            while not end.done():
                await asyncio.wait((end,), timeout=STALL_CHECK_S)
                self._watch(source_thread)
                if self._may_recover and source_thread.should_skip_ahead(time.monotonic()):
                    return _SkippedAheadError("too much video waited to be read")
            return end.result()
        finally:
            if not end.done():
                source_thread.stop()
                await asyncio.wait((end,), timeout=SOURCE_STOP_TIMEOUT_S)

    def opened(self, info: SourceInfo) -> None:
        """The source is open."""
        self.info = info

    def live(self) -> None:
        """The first frame of a connection has come."""
        self.publisher.set_state(StreamState.LIVE)

    def _watch(self, source_thread: SourceThread) -> None:
        """Set `live` or `stalled` by the age of the newest frame that came, decoded or not. A camera whose frames wait
        here is not stalled."""
        now, stall_after = time.monotonic(), self._deps.options.stall_after
        source_thread.watch(now)
        alive_at = source_thread.alive_at()
        if alive_at is None:
            return
        age = now - alive_at
        if age < stall_after:
            if self.state is not StreamState.LIVE:
                self.publisher.set_state(StreamState.LIVE)
        elif self.state is StreamState.LIVE and source_thread.is_source_silent(now, stall_after):
            self.publisher.set_state(StreamState.STALLED, f"no frame for {age:.1f} s")


class _SkippedAheadError(StreamcapError):
    """The connection was given up: a new one begins with the newest frame."""
