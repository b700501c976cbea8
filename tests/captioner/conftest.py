"""What the captioner's tests share."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny matrices: a second thread only waits."""
    torch.set_num_threads(1)
