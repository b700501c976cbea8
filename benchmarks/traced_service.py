"""`python -m streamcap`, with the time of each stage of a caption and the names of its threads.

    python -m benchmarks.traced_service serve ...

Each line on standard input is answered with one of JSON on standard output: what was measured since the last one. The
stages are measured around the functions that they name, from outside, so that a service without it does not pay.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from streamcap.cli import main


class StageTrace:
    """Milliseconds of each stage: wall time, and the CPU time of the thread that ran it. Any thread may note."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wall: dict[str, list[float]] = defaultdict(list)
        self._cpu: dict[str, list[float]] = defaultdict(list)

    def note(self, stage: str, wall: float, cpu: float | None = None) -> None:
        """Seconds of one run of `stage`."""
        with self._lock:
            self._wall[stage].append(1000 * wall)
            if cpu is not None:
                self._cpu[stage].append(1000 * cpu)

    def around(self, owner: type, name: str, stage: str, counts: Callable[[Any], bool] = lambda _: True) -> None:
        """Measure each call of a method, if `counts` is true of its result."""
        method = getattr(owner, name)

        @functools.wraps(method)
        def measured(*arguments: Any, **named: Any) -> Any:
            wall, cpu = time.monotonic(), time.thread_time()
            result = method(*arguments, **named)
            if counts(result):
                self.note(stage, time.monotonic() - wall, time.thread_time() - cpu)
            return result

        setattr(owner, name, measured)

    def before(self, owner: type, name: str, note: Callable[[Any], None]) -> None:
        """Call `note` with the first argument of each call of a method."""
        method = getattr(owner, name)

        @functools.wraps(method)
        def noted(owner_itself: Any, argument: Any) -> Any:
            note(argument)
            return method(owner_itself, argument)

        setattr(owner, name, noted)

    def take(self) -> dict[str, Any]:
        """What was noted since the last call."""
        with self._lock:
            wall, cpu = dict(self._wall), dict(self._cpu)
            self._wall.clear()
            self._cpu.clear()
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        return {"wall_ms": wall, "cpu_ms": cpu, "threads": names}


def install(trace: StageTrace) -> None:
    """Measure the stages from now on. Loads the sources, the engine and the streams."""
    from streamcap.captioner.captioner import Captioner
    from streamcap.engine.live import LiveModel
    from streamcap.engine.outcome import Captioned
    from streamcap.media.convert import Converter
    from streamcap.media.sources.libav.source import LibavSource
    from streamcap.streams.publishing.caption_publisher import CaptionPublisher
    from streamcap.streams.source.source_thread import SourceThread

    def note_frame(frame: Any) -> None:
        now = time.monotonic()
        trace.note("arrival to decoded", now - frame.arrived)
        if frame.captured_at_source == "rtcp":
            trace.note("camera to arrival", time.time() - now + frame.arrived - frame.captured_at)

    def note_outcome(outcome: Any) -> None:
        if isinstance(outcome, Captioned):
            trace.note("thread to loop", time.monotonic() - outcome.times.decoded)

    trace.around(LibavSource, "_decode", "libav decodes a packet", lambda frames: bool(frames))
    trace.before(SourceThread, "_take", note_frame)
    trace.around(Converter, "convert", "convert")
    trace.around(LiveModel, "encode", "encode")
    trace.around(LiveModel, "features", "features")
    trace.around(Captioner, "_prompts", "prompts")
    trace.around(LiveModel, "decode", "prompts and decode")
    trace.before(CaptionPublisher, "on_outcome", note_outcome)


def answer(trace: StageTrace) -> None:
    """Answer each line of standard input until it ends."""
    for _ in sys.stdin:
        print(json.dumps(trace.take()), flush=True)


if __name__ == "__main__":
    stages = StageTrace()
    install(stages)
    threading.Thread(target=answer, args=(stages,), name="trace", daemon=True).start()
    main()
