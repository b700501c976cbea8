"""`probe`: what a source is, or what is wrong with it."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import av

from streamcap.media.frame import Frame
from streamcap.media.orientation import SQUARE, display_size
from streamcap.media.sources import open_source
from streamcap.media.sources.address import HostScope
from streamcap.media.sources.base import Source, SourceEnded, SourceInfo, SourceLost, SourceRefused
from streamcap.media.sources.libav.errors import describe_error
from streamcap.media.sources.options import SourceOptions
from streamcap.media.sources.url import PUSHED, check_url, scheme_of
from streamcap.redact import redact

log = logging.getLogger(__name__)

PROBE_SECONDS = 10.0
"""Limit of one probe."""
OPEN_SHARE, WATCH_SHARE = 0.5, 0.45
"""Of the limit: until it is open; for watching the stream, unless all is known before."""
MIN_WATCH_SECONDS = 2.0
"""For the rate and the bit rate."""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """The result of one probe. None or empty: not known."""

    url: str
    """Redacted."""
    usable: bool
    reason: str = ""
    """What is wrong, and what to try; empty if usable."""
    codec: str = ""
    width: int = 0
    height: int = 0
    display_aspect: str = ""
    """Such as "16:9"."""
    frames_per_second: float | None = None
    keyframe_interval: float | None = None
    """Seconds between two keyframes; None: none or only one was seen."""
    bits_per_second: int | None = None
    """Of the video."""
    audio: str = ""
    """Codec of the audio, which is not used."""
    clock: str = ""
    """"rtcp": the camera sends sender reports, so captions have its time; "arrival": it does not."""
    transport: str = ""
    decode: str = ""
    """What `--decode auto` does with it."""
    seconds: float = 0.0
    """How long the probe took."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _Seen:
    """What arrived while the stream was watched. Times in seconds."""

    packets: int = 0
    packet_bytes: int = 0
    frames: int = 0
    first_at: float | None = None
    last_at: float = 0.0
    keyframes_at: list[float] = field(default_factory=list)
    keyframes_pts: list[float] = field(default_factory=list)
    rtcp: bool = False
    aspect: Fraction = SQUARE
    size: tuple[int, int] = (0, 0)

    def packet(self, packet: av.Packet[Any], at: float) -> None:
        self.packets += 1
        self.packet_bytes += packet.size
        self.first_at = at if self.first_at is None else self.first_at
        self.last_at = at
        if packet.is_keyframe:
            self.keyframes_at.append(at)
            if packet.pts is not None and packet.time_base is not None:
                self.keyframes_pts.append(float(packet.pts * packet.time_base))

    def frame(self, frame: Frame) -> None:
        self.frames += 1
        self.size, self.aspect = frame.size, frame.sample_aspect
        self.rtcp = self.rtcp or frame.captured_at_source == "rtcp"

    @property
    def seconds(self) -> float:
        return 0.0 if self.first_at is None else self.last_at - self.first_at

    @property
    def keyframe_interval(self) -> float | None:
        # Frames arrive in bursts: timestamps tell the interval better, where there are any.
        times = self.keyframes_pts if len(self.keyframes_pts) > 1 else self.keyframes_at
        if len(times) < 2 or times[-1] <= times[0]:
            return None
        return (times[-1] - times[0]) / (len(times) - 1)


def probe(url: str, *, seconds: float = PROBE_SECONDS, scope: HostScope = HostScope.ANY) -> ProbeReport:
    """What the source at `url` is, or what is wrong with it, within `seconds`.

    Raises InputError if `url` is no source's address.
    """
    url = check_url(url)
    if scheme_of(url) in PUSHED:
        return ProbeReport(
            redact(url), usable=False, reason="a browser publishes to it; there is nothing to connect to"
        )
    results: queue.Queue[ProbeReport] = queue.Queue()
    prober = _Prober(url, scope, seconds)
    # A name server or a device may hang for longer: the thread is left to itself then.
    threading.Thread(target=lambda: results.put(prober.run()), name="probe", daemon=True).start()
    try:
        return results.get(timeout=seconds)
    except queue.Empty:
        prober.stop()
        reason = f"{prober.stage}: nothing came of it within {seconds:g} s"
        return ProbeReport(redact(url), usable=False, reason=reason, seconds=seconds)


class _Prober:
    def __init__(
        self, url: str, scope: HostScope, seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.stage = "opening it"
        self._url = url
        self._watch_seconds = WATCH_SHARE * seconds
        self._monotonic = monotonic
        timeout = OPEN_SHARE * seconds
        options = SourceOptions(open_timeout=timeout, read_timeout=timeout, poll_interval=0.5, scope=scope)
        self._source: Source = open_source(url, options=options)

    def stop(self) -> None:
        self._source.stop()

    def run(self) -> ProbeReport:
        started = self._monotonic()
        source, seen = self._source, _Seen()
        info: SourceInfo | None = None
        reason = ""
        try:
            info = source.open()
            self.stage = "waiting for video"
            source.on_packet = seen.packet
            self._watch(seen)
        except SourceRefused as refused:
            reason = str(refused)
        except (SourceLost, SourceEnded) as end:
            reason = "" if seen.frames else str(end)
        except Exception as error:  # else nobody would learn of it: the report would only come late
            log.exception("probing %s failed", redact(self._url))
            reason = f"an error of streamcap: {describe_error(error)}"
        finally:
            source.close()
        reason = reason or ("" if seen.frames else _no_frame(seen, self._watch_seconds))
        where = redact(self._url)
        reason = reason.removeprefix(f"{where}: ")
        return _report(where, info, seen, reason, self._monotonic() - started)

    def _watch(self, seen: _Seen) -> None:
        """Read until all is known, or the time is up."""
        began = self._monotonic()
        # Without a frame the source would wait for one until its read timeout.
        timer = threading.Timer(self._watch_seconds, self._source.stop)
        timer.daemon = True
        timer.start()
        try:
            for frame in self._source.frames():
                seen.frame(frame)
                watched = self._monotonic() - began
                known = seen.rtcp and seen.keyframe_interval is not None
                if watched >= self._watch_seconds or (known and watched >= MIN_WATCH_SECONDS):
                    return
        finally:
            timer.cancel()


def _no_frame(seen: _Seen, watched: float) -> str:
    if not seen.packets:
        return "it opened, but sent no video; try again, or restart the camera"
    if not seen.keyframes_at:
        return (
            f"video comes, but no keyframe in {watched:.2g} s; set the camera's keyframe interval (GOP, I-frame "
            "interval) to 1 to 4 s"
        )
    return "keyframes come, but none can be decoded; set the camera to H.264 (baseline, main or high)"


def _report(where: str, info: SourceInfo | None, seen: _Seen, reason: str, seconds: float) -> ProbeReport:
    if info is None:
        return ProbeReport(where, usable=False, reason=reason, seconds=round(seconds, 2))
    width, height = seen.size if seen.frames else (info.width, info.height)
    interval = seen.keyframe_interval
    measured = (seen.packets - 1) / seen.seconds if seen.packets > 5 and seen.seconds > 0 else None
    rate = info.frames_per_second or measured
    return ProbeReport(
        where,
        usable=not reason,
        reason=reason,
        codec=info.codec,
        width=width,
        height=height,
        display_aspect=_aspect(width, height, seen.aspect),
        frames_per_second=None if not rate else round(rate, 2),
        keyframe_interval=None if interval is None else round(interval, 2),
        bits_per_second=round(8 * seen.packet_bytes / seen.seconds) if seen.seconds > 0.5 else None,
        audio=info.audio,
        clock="rtcp" if seen.rtcp else "arrival",
        transport=info.transport,
        decode=_decode(info, interval),
        seconds=round(seconds, 2),
    )


def _decode(info: SourceInfo, interval: float | None) -> str:
    if info.codec in ("mjpeg", "rawvideo") or not info.live:
        return "every frame"
    if interval is None:
        return "every frame: no two keyframes were seen"
    return f"keyframes alone, where --every is {interval:.2g} or more; else up to the last frame that is captioned"


def _aspect(width: int, height: int, sample_aspect: Fraction) -> str:
    if not width or not height:
        return ""
    shown = Fraction(*display_size(width, height, sample_aspect))
    for across, down in ((16, 9), (4, 3), (3, 2), (1, 1), (21, 9), (9, 16), (3, 4)):
        if abs(float(shown) * down / across - 1) < 0.01:
            return f"{across}:{down}"
    return f"{float(shown):.2f}:1"
