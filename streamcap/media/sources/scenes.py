"""`ScenesSource`: the built-in synthetic scenes as a live camera, drawn in real time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from urllib.parse import parse_qsl

from av import VideoFrame

from streamcap.errors import InputError
from streamcap.media.frame import Frame
from streamcap.media.scenes import SceneScript, draw
from streamcap.media.sources.base import Source, SourceInfo


@dataclass(frozen=True, slots=True)
class SceneOptions:
    """Options of `scenes:?seed=3&size=640x360&rate=15&seconds=4`: pixels, frames a second, seconds a scene."""

    seed: int = 0
    width: int = 640
    height: int = 360
    rate: Fraction = Fraction(15)
    seconds: float = 4.0

    def __post_init__(self) -> None:
        if not (32 <= self.width <= 3840 and 32 <= self.height <= 2160):
            raise InputError(f"scenes: size {self.width}x{self.height}: from 32x32 to 3840x2160")
        if not Fraction(1, 10) <= self.rate <= 120:
            raise InputError(f"scenes: rate {float(self.rate):g}: frames a second, from 0.1 to 120")
        if not 0.1 <= self.seconds <= 86_400:
            raise InputError(f"scenes: seconds {self.seconds:g}: seconds a scene lasts, from 0.1 to 86400")
        if self.seed < 0:
            raise InputError(f"scenes: seed {self.seed}: 0 or more")

    @classmethod
    def from_url(cls, url: str) -> SceneOptions:
        """Parse a `scenes:` URL. Raises InputError for unknown keys and invalid values."""
        query = url.split(":", 1)[1].lstrip("/")
        if query and not query.startswith("?"):
            raise InputError(f"{url}: write it as scenes: or scenes:?seed=3&size=640x360&rate=15&seconds=4")
        values: dict[str, int | float | Fraction] = {}
        for key, value in parse_qsl(query[1:], keep_blank_values=True):
            try:
                if key == "seed":
                    values["seed"] = int(value)
                elif key == "size":
                    width, height = value.lower().split("x")
                    values["width"], values["height"] = int(width), int(height)
                elif key == "rate":
                    # Fraction is exact, so an exponent is refused: 1e9999999 would use up the memory.
                    values["rate"] = Fraction(value.lower().replace("e", "?")[:32])
                elif key == "seconds":
                    values["seconds"] = float(value)
                else:
                    raise InputError(f"{url}: scenes have no {key!r}; there are seed, size, rate and seconds")
            except (ValueError, ZeroDivisionError):
                raise InputError(f"{url}: {key}={value} cannot be understood") from None
        return cls(**values)  # type: ignore[arg-type]


class ScenesSource(Source):
    """Draws scene after scene in real time. Frame n shows scene time n / rate, which is also its media time.

    Drop policy: frames that cannot be drawn in time are skipped (`dropped`), so it never lags.

    Parameters:
        wait: sleeps for seconds or until `stop`; None: the real one.
    """

    def __init__(
        self,
        url: str = "scenes:",
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.url = url
        self.options = SceneOptions.from_url(url)
        self.script = SceneScript(self.options.seed, self.options.seconds)
        """Ground truth: `script.sentence_at(frame.time)`."""
        self._monotonic = monotonic
        self._wall = wall
        self._stopping = threading.Event()
        self._wait = self._stopping.wait if wait is None else wait
        self._frames = 0
        self._dropped = 0

    def open(self) -> SourceInfo:
        options = self.options
        return SourceInfo(options.width, options.height, float(options.rate), "drawn", live=True)

    def frames(self) -> Iterator[Frame]:
        options, base = self.options, 1 / self.options.rate
        started, started_wall = self._monotonic(), self._wall()
        number = 0
        while not self._stopping.is_set():
            media_time = float(number * base)
            pause = started + media_time - self._monotonic()
            if pause > 0:
                self._wait(pause)
                continue
            local = media_time - self.script.index_at(media_time) * options.seconds
            pixels = draw(self.script.scene_at(media_time), local, options.width, options.height)
            video_frame = VideoFrame.from_ndarray(pixels, format="rgb24")
            video_frame.pts, video_frame.time_base = number, base
            self._frames += 1
            yield Frame(
                video_frame=video_frame,
                pts=number,
                time_base=base,
                time=media_time,
                epoch=0,
                arrived=self._monotonic(),
                captured_at=started_wall + media_time,
                captured_at_source="arrival",
            )
            due = int((self._monotonic() - started) * options.rate)
            self._dropped += max(0, due - number - 1)
            number = max(number + 1, due)

    def stop(self) -> None:
        self._stopping.set()

    def close(self) -> None:
        self._stopping.set()

    def statistics(self) -> dict[str, int]:
        return {
            "frames": self._frames,
            "decode_errors": 0,
            "repaired_pts": 0,
            "epochs": 0,
            "dropped": self._dropped,
            "skipped": 0,
        }
