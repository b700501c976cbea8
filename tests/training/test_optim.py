"""Learning rate, parameter groups, weight averaging, and files that are written completely or not at all."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from streamcap.training.data.arrays import read_array, write_array
from streamcap.training.optim import decay_groups, save_state, update_ema, warm_cosine
from tests.file_limit import run_with_file_limit


def test_written_array_equals_numpy(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(7, 3, 2)).astype(np.float16)
    write_array(tmp_path / "a.npy", np.float16, array.shape, (array[i : i + 2] for i in range(0, 7, 2)))
    assert np.array_equal(np.load(tmp_path / "a.npy"), array)
    assert isinstance(read_array(tmp_path / "a.npy"), np.memmap)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("rows", [6, 8])
def test_incomplete_array_is_not_written(rows: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows"):
        write_array(tmp_path / "a.npy", np.uint8, (7, 2), [np.zeros((rows, 2), np.uint8)])
    with pytest.raises(ValueError, match="rows of shape"):
        write_array(tmp_path / "a.npy", np.uint8, (7, 2), [np.zeros((7, 3), np.uint8)])
    assert not list(tmp_path.iterdir())


WRITE_ARRAY = """
from pathlib import Path
import numpy as np
from streamcap.errors import StreamcapError
from streamcap.training.data.arrays import write_array
limit_file_size()
try:
    write_array(Path(sys.argv[1]), np.float64, (100, 100), [np.zeros((100, 100))])
except StreamcapError as error:
    print(error)
"""


def test_full_disk_keeps_old_array(tmp_path: Path) -> None:
    small = np.ones((4, 4))
    write_array(tmp_path / "a.npy", small.dtype, small.shape, [small])
    done = run_with_file_limit(64 * 1024, WRITE_ARRAY, tmp_path / "a.npy")
    assert re.search(r"a\.npy: cannot be written \(.*\); nothing was overwritten", done.stdout), done.stderr
    assert np.array_equal(np.load(tmp_path / "a.npy"), small)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


SAVE_STATE = """
from pathlib import Path
import torch
from streamcap.errors import StreamcapError
from streamcap.training.optim import save_state
limit_file_size()
try:
    save_state(Path(sys.argv[1]), {"step": 4, "weights": torch.zeros(100_000)})
except StreamcapError as error:
    print(error)
"""


def test_full_disk_keeps_old_state(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_state(path, {"step": 3})
    done = run_with_file_limit(64 * 1024, SAVE_STATE, path)
    assert "last.pt: cannot be written" in done.stdout, done.stderr
    assert torch.load(path, weights_only=True) == {"step": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_learning_rate_warms_up_and_decays() -> None:
    rates = [warm_cosine(step, 100, 10, 0.02) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[55] == pytest.approx(0.5)
    assert min(rates[10:]) == rates[-1] == 0.02
    # A run shorter than its warm-up still reaches the maximum rate.
    assert max(warm_cosine(step, 6, 100) for step in range(6)) == 1


def test_weight_decay_applies_to_matrices_only() -> None:
    module = torch.nn.Module()
    module.dense, module.wte = torch.nn.Linear(2, 3), torch.nn.Embedding(4, 2)
    module.prefix = torch.nn.Parameter(torch.zeros(2, 2))
    decaying, plain = decay_groups(module.named_parameters(), 0.1)
    assert [tuple(p.shape) for p in decaying["params"]] == [(3, 2)] and decaying["weight_decay"] == 0.1
    assert len(plain["params"]) == 3 and plain["weight_decay"] == 0.0


def test_ema_starts_short_and_copies_counters() -> None:
    mean, model = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    with torch.no_grad():
        model.weight.fill_(12)
    model.num_batches_tracked.fill_(7)
    update_ema(mean, model, 1, 0.9)
    assert mean.weight.item() == pytest.approx(1 * 2 / 11 + 12 * 9 / 11)
    assert mean.num_batches_tracked.item() == 7
    before = mean.weight.item()
    update_ema(mean, model, 10_000, 0.9)
    assert mean.weight.item() == pytest.approx(0.9 * before + 0.1 * 12)
