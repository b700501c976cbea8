"""Fixtures of the server tests: the client runs against the real service."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import pytest_asyncio

CLIENTS = Path(__file__).parents[2] / "clients"
sys.path.insert(0, str(CLIENTS / "python"))

from tests.server.conftest import server, start  # noqa: E402 - the path comes first

__all__ = ["CLIENTS", "server", "start"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run on the event loop of the server fixtures."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
