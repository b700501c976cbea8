"""The GPU benchmark on a CPU with small models: every part runs and reports its figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks import gpu
from streamcap.bench import continuous_batching, decode, encode
from tests.captioner.tiny_models import gpt2

pytestmark = pytest.mark.slow


def test_gpu_benchmark_measures_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_attention_heads=1, num_hidden_layers=2, patch_size=32
    )
    torch.manual_seed(0)
    model = CLIPVisionModelWithProjection(vision).eval()
    monkeypatch.setattr(decode, "random_gpt2", lambda: gpt2(1))
    monkeypatch.setattr(encode, "random_clip", lambda: model)
    monkeypatch.setattr(gpu, "FRAMES", [1, 2])
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "LARGE", 2**10)
    measured = continuous_batching.measure_continuous_batching
    monkeypatch.setattr(
        gpu.continuous_batching,
        "measure_continuous_batching",
        lambda *args, **more: measured(*args, **{**more, "seconds": 0.05, "streams": 2}),
    )
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--out", str(tmp_path)])
    gpu.main()
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert set(content["parts"]) == set(gpu.PARTS)
    assert not [name for name, part in content["parts"].items() if "failed" in part or "left_out" in part]
    assert content["parts"]["same tokens"] == {"frames": 8, "same_as_transformers": True, "same_again": True}
    drafts = content["parts"]["drafts"]
    assert all(draft["same_tokens"] for draft in drafts.values())
    assert drafts["right"]["passes"] < drafts["none"]["passes"] == 20
    assert {row["binding"] for row in content["binding_floor"].values()} <= {"bandwidth", "arithmetic"}
    assert content["parts"]["one frame"]["first_token_ms"] <= content["parts"]["one frame"]["last_token_ms"]
    assert len(content["summary"]) == 8 and all(row["met"] is not None for row in content["summary"])


def test_gpu_benchmark_ends_with_its_table_when_all_parts_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_device: torch.device) -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu, "PARTS", dict.fromkeys(gpu.PARTS, fails))
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--out", str(tmp_path)])
    gpu.main()
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert all("illegal memory access" in part["failed"] for part in content["parts"].values())
    assert [row["met"] for row in content["summary"][:-1]] == [None] * 7
    assert "| tokens as transformers | not measured | - |" in capsys.readouterr().out
