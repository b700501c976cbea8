"""Fixtures of the streams' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.streams.fakes import FakeService


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[FakeService]:
    service = FakeService(tmp_path / "out", every=1.0)
    yield service
    await service.streams.close()
