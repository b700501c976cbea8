"""`run_all` and `end_tasks`: tasks that end although the NATS client may swallow a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

AGAIN_SECONDS = 0.25


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel `tasks` until all are done. Once is not enough: the NATS client waits by `asyncio.wait_for`, which in
    Python 3.11 forgets a cancellation that comes together with a message.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_SECONDS)


async def run_all(*works: Coroutine[None, None, None]) -> None:
    """Run until one of them ends or fails, or the caller is cancelled; then end the others. Raises its error."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(tasks)
    for task in done:
        task.result()
