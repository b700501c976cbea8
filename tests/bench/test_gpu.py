"""The GPU benchmark on a CPU with small models: every part runs, and one that fails leaves its reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu_sizes import LIMITS, QUICK, Sizes


def run(out: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The JSON and what was printed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--out", str(out), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(gpu.__file__).parents[1],
    )
    return json.loads((out / "gpu-quick.json").read_text()), done.stdout


@pytest.mark.slow
def test_every_part_runs_and_reports(tmp_path: Path) -> None:
    content, printed = run(tmp_path)
    parts = content["parts"]
    assert list(parts) == list(LIMITS)
    assert not [name for name, part in parts.items() if "failed" in part or "left_out" in part]
    assert parts["same tokens"]["same_as_transformers"] and parts["same tokens"]["same_again"]
    assert parts["fused"]["reason"] == "they need an NVIDIA GPU"
    drafts = {name: part for name, part in parts["drafts"].items() if isinstance(part, dict)}
    assert all(draft["same_tokens"] for draft in drafts.values())
    assert drafts["right"]["passes"] < drafts["none"]["passes"] == 20
    assert {row["binding"] for row in content["binding_floor"].values()} <= {"bandwidth", "arithmetic"}
    assert parts["one frame"]["first_token_ms"] <= parts["one frame"]["last_token_ms"]
    engine = parts["engine"]
    assert engine["captions"] + engine["superseded"] >= engine["samples"] > 0
    assert engine["stopped"] and "Failed" not in engine["outcomes"]
    assert parts["video"]["software"]["decoded"] == QUICK.video_frames
    assert "failed" in parts["video"]["cuda"] or parts["video"]["cuda"]["decoded"] == QUICK.video_frames
    without_gpu = {"fused, one frame, × torch's kernels: below 1", "video on the GPU, CPU a frame, × software: below 1"}
    assert {row["goal"] for row in content["summary"] if row["measured"] is None} <= without_gpu
    assert "| fused, one frame, × torch's kernels: below 1 | not measured: they need an NVIDIA GPU | - |" in printed


def failing(name: str, device: str, sizes: Sizes) -> dict[str, Any]:
    """In place of `gpu_parts.run`: a part that raises, one that ends its process, and one that hangs."""
    if name == "same tokens":
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if name == "fused":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "one frame":
        time.sleep(60)
    return {"name": name, "graphs": True}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("same tokens", "RuntimeError: CUDA error: an illegal memory access was encountered"),
        ("fused", "its process ended with status -9"),
        ("one frame", "longer than 1 s"),
    ],
)
def test_failing_part_leaves_its_reason(monkeypatch: pytest.MonkeyPatch, name: str, reason: str) -> None:
    monkeypatch.setattr(gpu, "CONTEXT", "fork")  # to pass the replaced function on
    monkeypatch.setattr(gpu, "run", failing)
    assert gpu.measure(name, "cpu", QUICK, 1.0 if name == "one frame" else 60.0) == {"failed": reason}


def test_run_ends_with_its_table_when_all_parts_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "measure", lambda name, *_: {"failed": f"no {name} here"})
    gpu.main(["--device", "cpu", "--out", str(tmp_path)])
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert list(content["parts"]) == list(LIMITS)
    assert all(part["failed"] == f"no {name} here" for name, part in content["parts"].items())
    assert all(row["met"] is None and row["reason"] for row in content["summary"])
    assert "| tokens as transformers | not measured: no same tokens here | - |" in capsys.readouterr().out


def test_parts_beyond_the_time_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "BUDGET_SECONDS", 0.0)
    monkeypatch.setattr(gpu, "measure", lambda name, *_: {"name": name})
    content = gpu.main(["--device", "cpu", "--out", str(tmp_path)])
    assert {part["left_out"] for part in content["parts"].values()} == {"out of time"}
    assert {row["reason"] for row in content["summary"]} == {"out of time"}
