from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from streamcap.captioner import memory
from streamcap.captioner.memory import MemoryNeed, available_bytes, check_memory, memory_need
from streamcap.errors import InputError

MB = 1_000_000


@pytest.mark.parametrize(("precision", "least", "most"), [("fp32", 1.0, 1.2), ("bf16", 0.5, 0.7), ("int8", 0.25, 0.5)])
def test_need_follows_file_size_and_precision(tmp_path: Path, precision: str, least: float, most: float) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(3 * MB))
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(3 * MB))  # the same weights again
    (tmp_path / "tokenizer.json").write_bytes(bytes(MB))
    need = memory_need("large", str(tmp_path), "cpu", precision)
    assert need is not None and (need.model, need.device) == ("large", "cpu")
    assert least * 3 * MB <= need.resident <= most * 3 * MB
    assert need.loading == need.resident + 3 * MB


def test_optimizer_beside_the_model_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(3 * MB))
    (tmp_path / "optimizer.pt").write_bytes(bytes(6 * MB))
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-500" / "model.safetensors").write_bytes(bytes(9 * MB))
    need = memory_need("trained", str(tmp_path), "cpu", "fp32")
    assert need is not None and need.loading - need.resident == 3 * MB


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "model-00001-of-00002.safetensors"])
def test_all_shards_count_for_one_of_them(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(bytes(3 * MB))
    need = memory_need("sharded", str(tmp_path / name), "cpu", "fp32")
    assert need is not None and need.loading - need.resident == 6 * MB


def test_lightning_checkpoint_counts(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(bytes(3 * MB))
    need = memory_need("lightning", str(tmp_path), "cpu", "fp32")
    assert need is not None and need.loading - need.resident == 3 * MB


def test_directory_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(3 * MB))

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert memory_need("hidden", str(tmp_path), "cpu", "fp32") is None
    need = memory_need("file", str(tmp_path / "model.safetensors"), "cpu", "fp32")
    assert need is not None and need.loading - need.resident == 3 * MB


def test_model_that_is_not_here_needs_an_unknown_amount() -> None:
    assert memory_need("x", "owner/name-that-is-not-cached", "cpu", "fp32") is None


def test_models_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2000 * MB)
    needs = [MemoryNeed("a", "cpu", 600 * MB, 1000 * MB), MemoryNeed("b", "cpu", 700 * MB, 1400 * MB)]
    assert check_memory(needs) == "the models need about 2.0 GB of 2.0 GB available memory: a 0.6 GB, b 0.7 GB"
    needs.append(MemoryNeed("c", "cpu", 100 * MB, 200 * MB))
    with pytest.raises(InputError, match=r"need about 2\.1 GB of memory \(a 0\.6 GB, .*\), but 2\.0 GB are available"):
        check_memory(needs)


def test_memory_of_this_machine_is_known() -> None:
    available = available_bytes("cpu")
    assert available is not None and 0 < available <= psutil.virtual_memory().total
