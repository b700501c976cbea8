from __future__ import annotations

import asyncio

import pytest

from streamcap.cluster.tasks import end_tasks, run_all


async def swallow_once() -> None:
    """As a wait of the NATS client that ends together with a message."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()


async def test_task_that_swallows_a_cancellation_ends() -> None:
    task = asyncio.create_task(swallow_once())
    await asyncio.sleep(0)
    await end_tasks([task])
    assert task.cancelled()


async def test_first_error_ends_the_others() -> None:
    async def fail() -> None:
        raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        await run_all(swallow_once(), fail())
