"""The benchmarks on small models: what they report, not how long it took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from streamcap.bench import baselines, chart, continuous_batching, decode, encode, end_to_end, preprocess
from streamcap.bench.machine import BandwidthProbe, describe_machine
from streamcap.bench.timing import interleaved, ratio
from streamcap.captioner.kernels.int8_torch import engine
from tests.captioner.tiny_models import gpt2

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
PRECISIONS = ["fp32"] if engine() is None else ["fp32", "int8"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models, without other runtimes, which test_baselines.py tests."""
    monkeypatch.setattr(
        baselines, "NEEDED", {baselines.ONNXRUNTIME: ("no_such_package",), baselines.OPENVINO: ("nor_this",)}
    )
    monkeypatch.setattr(decode, "random_gpt2", lambda: gpt2(1))
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_attention_heads=1, num_hidden_layers=2, patch_size=32
    )
    torch.manual_seed(0)
    model = CLIPVisionModelWithProjection(vision).eval()
    monkeypatch.setattr(encode, "random_clip", lambda: model)


@pytest.mark.usefixtures("small")
def test_decode_tokens_match_transformers(tmp_path: Path) -> None:
    result: dict[str, Any] = decode.measure_decode(CPU, frames=[1, 2], precisions=PRECISIONS, rounds=1)
    rows = {(row["contender"], row["frames"]): row for row in result["rows"]}
    for frames in (1, 2):
        assert rows["streamcap fp32", frames]["same_tokens"] is True
        assert rows["loop without cache fp32", frames]["same_tokens"] is True
        assert rows["streamcap fp32", frames]["to_floor"] > 0
        assert rows["floor fp32", frames]["to_floor"] is None
    # 2 layers of 12 width² weights and biases aside, and the head.
    assert result["bytes_per_token"]["fp32"] == 4 * (2 * 12 * 64 * 64 + 120 * 64)
    assert "streamcap fp32" in decode.table(result)
    assert "OpenVINO is left out: nor_this not installed" in decode.table(result)
    drawn = tmp_path / "bench.png"
    chart.draw({"decode": result, "machine": describe_machine(CPU)}, drawn)
    assert drawn.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("small")
def test_encode_matches_transformers() -> None:
    result = encode.measure_encode(CPU, frames=[1], precisions=PRECISIONS, rounds=1)
    cosines = {row["contender"]: row["cosine"] for row in result["rows"]}
    assert cosines["streamcap fp32"] == pytest.approx(1, abs=1e-4)
    assert all(cosine > 0.98 for cosine in cosines.values())
    assert "streamcap fp32" in encode.table(result)
    assert "onnxruntime is left out: no_such_package not installed" in encode.table(result)


@pytest.mark.usefixtures("small")
def test_continuous_batching_completes_all_captions() -> None:
    decoder = decode.ours(decode.random_gpt2(), "fp32", CPU)
    result = continuous_batching.measure_continuous_batching(decoder, streams=3, load=0.8, seconds=0.1)
    end_to_end, joined = result["rows"]
    assert end_to_end["captions"] == joined["captions"] > 0
    assert "continuous batching" in continuous_batching.table(result)


def test_preprocess_measures_installed_contenders() -> None:
    result = preprocess.measure_preprocess(rounds=1)
    names = [row["contender"] for row in result["rows"]]
    assert "streamcap, array, bicubic" in names and "streamcap, decoded frame, bicubic" in names
    assert "bicubic" in preprocess.table(result)


def test_interleaved_ratio_of_equal_timings_is_one() -> None:
    timings = interleaved({"one": BandwidthProbe(800, CPU), "other": BandwidthProbe(800, CPU)}, CPU, rounds=3)
    assert len(timings["one"].seconds) == 3
    assert ratio(timings["one"], timings["one"]) == 1


@pytest.mark.usefixtures("small")
def test_end_to_end_reports_stage_times() -> None:
    result = end_to_end.measure_end_to_end(CPU, precisions=PRECISIONS, rounds=1)
    rows = {(row["model"], row["precision"]): row for row in result["rows"]}
    assert {model for model, _ in rows} == {"mini", end_to_end.BIG}
    for row in rows.values():
        assert all(row[f"{name}_ms"] > 0 for name in end_to_end.STAGES) and row["best_ms"] <= row["total_ms"]
        assert row["tokens"] > 0
    assert rows[end_to_end.BIG, "fp32"]["tokens"] == decode.TOKENS
    assert "mini" in end_to_end.table(result)
