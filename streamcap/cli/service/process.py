"""The process of `streamcap serve` and `streamcap node`: load the model, run, and end in bounded time."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from streamcap.errors import LostCaptionsError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from streamcap.captioner import Captioner
    from streamcap.engine.model_settings import ModelSettings

log = logging.getLogger(__name__)

LOG_TIMEOUT_S = 0.2
HUNG_WRITE_TIMEOUT_S = 2.0
"""For writes still in progress when everything else has ended."""
ERROR_EXIT_TIMEOUT_S = 1.0


def defer_collections() -> None:
    """Imports and models leave hardly any cycles, and looking for them takes a twentieth of the start. The service
    collects again once it has loaded (`begin_collections`)."""
    gc.disable()


def load_model(settings: ModelSettings, *, threads: int | None) -> Captioner:
    from streamcap.captioner import load_captioner
    from streamcap.captioner.registry import describe_model

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    started_at = time.monotonic()
    captioner = load_captioner(
        settings.model,
        device=settings.device,
        precision=settings.precision,
        vision=settings.vision,
        tokenizer=settings.tokenizer,
        prompt=settings.prompt,
    )
    captioner.require_text()
    described = describe_model(settings.model, captioner.info["family"])
    log.info("%s (loaded in %.1f s)", described, time.monotonic() - started_at)
    return captioner


def run_service(main: Coroutine[None, None, bool]) -> None:
    """Run `main`, then exit the process. Raises StreamcapError."""
    import uvloop

    async def bounded() -> bool:
        try:
            ended = await main
        except BaseException:  # re-raised; a cancellation counts too
            # Exit with this status even if the interpreter's shutdown hangs.
            start_timer(ERROR_EXIT_TIMEOUT_S, os._exit, 1)
            raise
        # Closing the loop waits up to five minutes for threads, such as one that writes to a hung disk.
        start_timer(HUNG_WRITE_TIMEOUT_S, _leave)
        return ended

    status = 0
    with contextlib.suppress(KeyboardInterrupt):
        try:
            uvloop.run(bounded())
        except LostCaptionsError as error:
            sys.stderr.write(f"streamcap: {error}\n")
            status = 1
        # Files are complete and viewers disconnected. The interpreter's shutdown can take seconds, and it aborts the
        # process if a thread is inside torch.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)


def start_timer(seconds: float, function: Callable[..., object], *args: object) -> None:
    timer = threading.Timer(seconds, function, args)
    timer.daemon = True
    timer.start()


def exit_now() -> None:
    """End the process because something hangs. From any thread, even if the log hangs too."""
    line = threading.Thread(target=log.error, args=("a disk or a device does not respond: exiting without it",))
    line.daemon = True
    line.start()
    line.join(LOG_TIMEOUT_S)
    os._exit(1)


def _leave() -> None:
    log.error("exiting although a file is still being written: the disk does not respond")
    logging.shutdown()
    os._exit(1)
