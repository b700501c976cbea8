"""`CaptionTrack`: assigns ids and revisions to one stream's captions, extends them, and keeps the rolling cues."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from streamcap.captions.caption import Caption, Latency
from streamcap.captions.cue import Cue, merge_cues, to_ms
from streamcap.captions.event import Extend, Payload
from streamcap.captions.text import clean_text
from streamcap.capture_clock import CaptureClock


@dataclass(frozen=True, slots=True)
class SampleTime:
    """Epoch and times of the sampled frame, and its model."""

    epoch: int
    start: float
    captured_at: float
    captured_at_source: CaptureClock
    model: str = ""
    """Name of the model that captions it."""


class CaptionTrack:
    """Turns texts into captions and cues.

    For each sample: `interim` any number of times, then `final`, or `extend` if nothing changed. `end_interim` ends an
    interim whose image gets no caption of its own.

    Parameters:
        stream: its name; ids are `NAME-N`.
        every: seconds between samples; a final lasts this long unless it is extended.
        window: seconds of cues to keep. The newest cue always stays: most programs reject a file without cues.
        next_number: number of the next id, to continue ids after a restart.
    """

    def __init__(self, stream: str, *, every: float, window: float = 3600.0, next_number: int = 1) -> None:
        self.stream = stream
        self.every = every
        self.window = window
        self._number = next_number
        self._revision = 0
        self._last: Caption | None = None
        self._open: Caption | None = None
        self._end = 0.0
        self._finals: deque[Cue] = deque()

    @property
    def last(self) -> Caption | None:
        """The newest final as it was published. Its end may have moved since (see `end`)."""
        return self._last

    @property
    def end(self) -> float:
        """End of the newest final in seconds, extensions included; 0 before the first."""
        return self._end

    @property
    def next_number(self) -> int:
        """Number of the next id that no caption has used, interims included."""
        return self._number + bool(self._revision)

    @property
    def finals(self) -> tuple[Cue, ...]:
        """The finals of the window, oldest first. Fast; `merge_cues` makes `cues` of them."""
        return tuple(self._finals)

    @property
    def cues(self) -> list[Cue]:
        """The merged cues of the window, oldest first."""
        return list(merge_cues(self._finals))

    def interim(self, at: SampleTime, text: str, latency: Latency) -> Caption:
        """An interim caption of the sample at `at`."""
        self._open = self._caption(at, text, None, None, latency, is_final=False)
        return self._open

    def final(
        self, at: SampleTime, text: str, logprob: float | None, latency: Latency, confidence: float | None = None
    ) -> Caption:
        """The final caption of the sample at `at`; starts a cue of `every` seconds."""
        return self._end_id(self._caption(at, text, logprob, confidence, latency, is_final=True))

    def end_interim(self, *, repeat: bool) -> Caption | None:
        """The final of an open interim whose image gets no caption of its own; None if no interim is open.

        repeat: the image is that of the newest final again, whose text it gets. Otherwise its text is empty.
        """
        if self._open is None:
            return None
        last = self._last if repeat else None
        text, logprob, confidence = ("", None, None) if last is None else (last.text, last.logprob, last.confidence)
        return self._end_id(
            self._open._replace(
                revision=self._revision + 1,
                is_final=True,
                text=text,
                logprob=logprob,
                confidence=confidence,
            )
        )

    def _end_id(self, final: Caption) -> Caption:
        self._number += 1
        self._revision = 0
        self._open = None
        self.restore(final)
        return final

    def extend(self, at: SampleTime) -> Extend | None:
        """Nothing has changed at `at`: the end of the newest final moves to `every` seconds after it.

        None if there is no final yet, or only one of an earlier epoch or without text. The id of an interim of this
        sample is not used again.
        """
        last = self._last
        if last is None or last.epoch != at.epoch or not last.text:
            return None
        if self._revision:
            self._number += 1
            self._revision = 0
            self._open = None
        self._move_end(max(self._end, at.start + self.every))
        return Extend(self.stream, last.id, self._end)

    def restore(self, caption: Caption) -> None:
        """Add a final of a file or of another track as the newest."""
        start_ms = to_ms(caption.start)
        self._last = caption
        self._end = max(self._end, caption.end)
        self._finals.append(Cue(start_ms, max(to_ms(caption.end), start_ms + 1), caption.text))
        self._trim()

    def apply(self, payload: Payload) -> None:
        """Apply what another track of this stream published. Interims and statuses are ignored."""
        match payload:
            case Caption(is_final=True):
                self.restore(payload)
            case Extend(id=id_, end=end) if self._last is not None and self._last.id == id_:
                self._move_end(end)

    def close(self, now: float) -> Extend | None:
        """The stream ends at output time `now`: end the last cue there if it would end later."""
        last = self._last
        if last is None or not last.start < now < self._end:
            return None
        self._move_end(now)
        return Extend(self.stream, last.id, now)

    def _caption(
        self,
        at: SampleTime,
        text: str,
        logprob: float | None,
        confidence: float | None,
        latency: Latency,
        *,
        is_final: bool,
    ) -> Caption:
        self._revision += 1
        return Caption(
            stream=self.stream,
            epoch=at.epoch,
            id=f"{self.stream}-{self._number}",
            revision=self._revision,
            is_final=is_final,
            start=at.start,
            end=at.start + self.every,
            text=clean_text(text),
            logprob=logprob,
            confidence=confidence,
            captured_at=at.captured_at,
            captured_at_source=at.captured_at_source,
            latency=latency,
            model=at.model,
        )

    def _move_end(self, end: float) -> None:
        """Every change of the end of a published cue: by `extend`, `close`, and `apply` of another track's."""
        self._end = end
        cue = self._finals.pop()
        self._finals.append(Cue(cue.start_ms, max(to_ms(end), cue.start_ms + 1), cue.text))
        self._trim()

    def _trim(self) -> None:
        oldest_ms = to_ms(self._end - self.window)
        while len(self._finals) > 1 and self._finals[0].end_ms <= oldest_ms:
            self._finals.popleft()
