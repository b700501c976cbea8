"""Cameras with ground truth: synthetic scenes, encoded once as H.264 and served over RTSP by GStreamer.

    with RtspServer(Clip(seed=1), paths=("door", "yard")) as server:
        frames = open_source(server.url("door")) ...
        server.sentence_at(frame.captured_at)

What is shown when: all cameras of one server show the same, frame `n % clip.count` at wall time `t0 + n / rate`; `t0`
is the server's own, new at every start. A client learns a frame's wall time from RTCP (`Frame.captured_at` where
`captured_at_source` is "rtcp"), exact to well under a frame; arrival is later by the way here. `sentence_at` rounds to
the nearest frame. `changes(from, to)` lists the wall times when the sentence changes.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np

import streamcap.media.scenes
from streamcap.media.scenes import SceneScript, draw
from testbed.programs import SYSTEM_PYTHON

_SCRIPT = Path(__file__).with_name("gstreamer_server.py")
_KEY_SECONDS = 0.5


@dataclass(frozen=True)
class Clip:
    """`scenes` scenes of `seconds` each; an even number, so that a repetition never repeats a sentence."""

    seed: int = 1
    scenes: int = 6
    seconds: float = 2.0
    width: int = 1280
    height: int = 720
    rate: int = 15
    bit_rate: int = 3_000_000
    preset: str = "ultrafast"
    """x264's; "veryfast" is closer to real cameras, and costs more to decode."""
    still: bool = False
    """Static: shows the first image of each scene, with the encoder's noise and `noise`."""
    noise: float = 0.0
    """Standard deviation of the sensor noise, new in every frame, in levels of 255."""

    @property
    def script(self) -> SceneScript:
        return SceneScript(self.seed, self.seconds)

    @property
    def count(self) -> int:
        """Frames of one repetition."""
        return round(self.scenes * self.seconds * self.rate)

    def sentence(self, number: int) -> str:
        """The true sentence of frame `number`, counted over all repetitions."""
        return self.script.sentence_at((number % self.count + 0.5) / self.rate)

    def encoded(self) -> tuple[Path, Path]:
        """The raw H.264 file and its index. Encoded once per machine and cached in the temporary directory."""
        drawing = Path(streamcap.media.scenes.__file__).parent
        stamp = hashlib.sha256(repr(self).encode())
        for source in (*sorted(drawing.glob("*.py")), Path(__file__)):
            stamp.update(source.read_bytes())
        base = Path(tempfile.gettempdir()) / f"streamcap-camera-{os.getuid()}-{stamp.hexdigest()[:16]}"
        video, index = base.with_suffix(".h264"), base.with_suffix(".json")
        if not index.exists():
            part = base.with_suffix(f".{os.getpid()}.part")
            about = self._encode(part)
            part.rename(video)
            part.write_text(json.dumps(about))
            part.rename(index)
        return video, index

    def _encode(self, path: Path) -> dict[str, object]:
        """One access unit per frame, no reordering, parameter sets before every keyframe."""
        sizes: list[int] = []
        keys: list[int] = []
        codec = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = self.width, self.height, "yuv420p"
        codec.framerate, codec.time_base = Fraction(self.rate), Fraction(1, self.rate)
        codec.bit_rate, codec.gop_size, codec.max_b_frames = self.bit_rate, round(self.rate * _KEY_SECONDS), 0
        codec.options = {"preset": self.preset, "tune": "zerolatency", "x264-params": "repeat-headers=1:annexb=1"}
        per_scene = round(self.seconds * self.rate)
        with path.open("wb") as out:
            for number in range(self.count + 1):
                packets = codec.encode(self._frame(number, per_scene) if number < self.count else None)
                for packet in packets:
                    if packet.is_keyframe:
                        keys.append(len(sizes))
                    sizes.append(out.write(bytes(packet)))
        return {"rate": self.rate, "sizes": sizes, "keys": keys}

    def _frame(self, number: int, per_scene: int) -> av.VideoFrame:
        local = number % per_scene
        seconds = 0.0 if self.still else local / self.rate
        pixels = draw(self.script.scene(number // per_scene), seconds, self.width, self.height)
        if self.noise:
            grain = np.random.default_rng((self.seed, number)).normal(0.0, self.noise, pixels.shape)
            pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, self.rate)
        if local == 0:
            frame.pict_type = av.video.frame.PictureType.I
        return frame


class RtspServer:
    """The server as a process; `with` starts and stops it. Without `port` it uses a free one."""

    def __init__(
        self,
        clip: Clip | None = None,
        *,
        paths: tuple[str, ...] = ("door",),
        port: int = 0,
        user: str = "",
        password: str = "",
        digest: bool = False,
        udp: bool = False,
        damage: float = 0.0,
    ) -> None:
        self.clip = clip or Clip()
        self.port = port
        self.t0 = 0.0
        self._options = {
            "paths": paths,
            "user": user,
            "password": password,
            "digest": digest,
            "udp": udp,
            "damage": damage,
        }
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it listens; after `kill`, on the same port."""
        video, index = self.clip.encoded()
        options = {**self._options, "port": self.port, "clip": str(video), "index": str(index)}
        self._process = subprocess.Popen(
            [SYSTEM_PYTHON, str(_SCRIPT), json.dumps(options)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "GST_DEBUG": os.environ.get("GST_DEBUG", "0")},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("READY "):
            self.kill()
            raise RuntimeError("the RTSP server did not start")
        ready = json.loads(line[len("READY ") :])
        self.port, self.t0 = ready["port"], ready["t0"]

    def kill(self) -> None:
        """Kill it at once, like a power cut."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, but no data comes."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: continues with the frames that are due then."""
        self._signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, path: str = "door", *, login: str = "") -> str:
        """The camera's URL. `login` is "user:password"."""
        return f"rtsp://{login}{'@' if login else ''}127.0.0.1:{self.port}/{path}"

    def frame_number(self, wall: float) -> int:
        """The frame closest to wall time `wall`, in seconds since 1970."""
        return round((wall - self.t0) * self.clip.rate)

    def sentence_at(self, wall: float) -> str:
        """The true sentence at wall time `wall`."""
        return self.clip.sentence(self.frame_number(wall))

    def changes(self, since: float, until: float) -> list[tuple[float, str]]:
        """The times between two wall times at which a new sentence became true, with the sentence."""
        seconds = self.clip.seconds
        first = int((since - self.t0) // seconds) + 1
        last = int((until - self.t0) // seconds)
        return [
            (self.t0 + number * seconds, self.clip.sentence(round(number * seconds * self.clip.rate)))
            for number in range(first, last + 1)
        ]

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)
