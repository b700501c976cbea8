"""Other runtimes with the same weights: graph and loop compared with transformers, converters on a small model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from streamcap.bench import baselines, decode
from streamcap.bench.onnx_graph import Step, Tower, with_int8_weights
from testbed.programs import require_package
from tests.captioner import tiny_models

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


class Eager:
    """A session that runs the graph by torch, without another runtime."""

    def __init__(self, graph: Step | Tower) -> None:
        self._graph = graph

    def value(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(array.copy())

    @torch.inference_mode()
    def run(self, values: Sequence[Tensor]) -> list[Tensor]:
        if isinstance(self._graph, Tower):
            return [self._graph(*values)]
        embeddings, positions, mask, *cache = values
        layers = len(cache) // 2
        logits, keys, grown = self._graph(embeddings, positions, mask, cache[:layers], cache[layers:])
        return [logits, *keys, *grown]

    def array(self, value: Tensor) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = value.numpy()
        return array


def prefixes(rows: int) -> Tensor:
    torch.manual_seed(rows)
    return torch.randn(rows, 5, 64)


def clip() -> Any:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_attention_heads=1, num_hidden_layers=1, image_size=64, patch_size=32
    )
    return CLIPVisionModelWithProjection(config).eval()


def test_greedy_loop_matches_transformers() -> None:
    model = tiny_models.gpt2(1)
    loop = baselines.GreedyLoop(Eager(Step(model)), model, decode.TOKENS)
    for rows in (1, 3):
        assert loop(prefixes(rows)) == decode.generate(model, prefixes(rows))


def test_tower_matches_transformers_and_int8_is_close() -> None:
    model = clip()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model(pixel_values=pixels).image_embeds
    tower = Tower(model)
    found = baselines.encoder(Eager(tower), pixels)()
    quantized = baselines.encoder(Eager(with_int8_weights(tower)), pixels)()
    torch.testing.assert_close(found, expected)
    assert 0.99 < F.cosine_similarity(quantized, expected).min() < 1 - 1e-7


def test_failed_converter_omits_only_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> dict[str, baselines.Session]:
        raise RuntimeError("no such operator\nand a page more")

    requested: list[list[str]] = []

    def works(graph: Step, precisions: list[str], _: object) -> dict[str, baselines.Session]:
        requested.append(precisions)
        return {name: Eager(graph) for name in precisions}

    monkeypatch.setattr(baselines, "NEEDED", {baselines.ONNXRUNTIME: (), baselines.OPENVINO: ()})
    monkeypatch.setattr(baselines, "_onnxruntime", fails)
    monkeypatch.setattr(baselines, "_openvino", works)
    model = tiny_models.gpt2(1)
    monkeypatch.setattr(decode, "random_gpt2", lambda: model)
    result = decode.measure_decode(
        CPU, frames=[1], precisions=["fp32"], rounds=1, leave_out=["loop", "transformers, static", "OpenVINO int8"]
    )
    assert requested == [["fp32"]]
    assert result["baselines"]["left_out"] == {"onnxruntime": "RuntimeError: no such operator"}
    assert result["baselines"]["other_tokens_in_fp32"] == []
    rows = {row["contender"]: row for row in result["rows"]}
    assert rows["OpenVINO fp32"]["same_tokens"] is True and rows["OpenVINO fp32"]["to_floor"] > 0
    assert "onnxruntime is left out: RuntimeError: no such operator" in decode.table(result)


def test_fp32_token_mismatch_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "NEEDED", {baselines.ONNXRUNTIME: (), baselines.OPENVINO: ("no_such_package",)})
    monkeypatch.setattr(baselines, "_onnxruntime", lambda *_: {"fp32": Eager(Step(tiny_models.gpt2(2)))})
    model = tiny_models.gpt2(1)
    monkeypatch.setattr(decode, "random_gpt2", lambda: model)
    result = decode.measure_decode(CPU, frames=[2], precisions=["fp32"], rounds=1, leave_out=["loop"])
    assert result["baselines"]["other_tokens_in_fp32"] == ["onnxruntime fp32, 2 frames"]


def test_gpu_has_no_baselines() -> None:
    with baselines.baselines(lambda: pytest.fail("converted"), torch.device("cuda"), ["fp32"]) as found:
        assert found.sessions == {} and set(found.left_out) == {baselines.ONNXRUNTIME, baselines.OPENVINO}
    with baselines.baselines(lambda: pytest.fail("converted"), torch.device("cuda"), ["fp16"]) as found:
        assert found.left_out == {}


@pytest.mark.parametrize("baseline", [baselines.ONNXRUNTIME, baselines.OPENVINO])
def test_runtime_gpt2_matches_transformers(baseline: str) -> None:
    require_package(*baselines.NEEDED[baseline])
    model = tiny_models.gpt2(1)
    omitted = [name for name in baselines.NEEDED if name != baseline]
    with baselines.baselines(lambda: Step(model), CPU, baselines.PRECISIONS, omitted) as found:
        assert found.left_out == {} and set(found.sessions) == {f"{baseline} fp32", f"{baseline} int8"}
        loops = {name: baselines.GreedyLoop(session, model, decode.TOKENS) for name, session in found.sessions.items()}
        for rows in (1, 3):
            assert loops[f"{baseline} fp32"](prefixes(rows)) == decode.generate(model, prefixes(rows))
        quantized = np.array(loops[f"{baseline} int8"](prefixes(3)))
    # The weights are random: int8 tokens need to agree only at the first position.
    assert (
        quantized.shape == (3, decode.TOKENS) and (quantized == decode.generate(model, prefixes(3)))[:, 0].mean() > 0.5
    )


@pytest.mark.parametrize("baseline", [baselines.ONNXRUNTIME, baselines.OPENVINO])
def test_runtime_tower_matches_transformers(baseline: str) -> None:
    require_package(*baselines.NEEDED[baseline])
    model = clip()
    omitted = [name for name in baselines.NEEDED if name != baseline]
    with baselines.baselines(lambda: Tower(model), CPU, baselines.PRECISIONS, omitted) as found:
        assert found.left_out == {}
        for rows in (1, 3):
            pixels = torch.randn(rows, 3, 64, 64)
            with torch.inference_mode():
                expected = model(pixel_values=pixels).image_embeds
            torch.testing.assert_close(
                baselines.encoder(found.sessions[f"{baseline} fp32"], pixels)(), expected, rtol=1e-3, atol=1e-4
            )
            quantized = baselines.encoder(found.sessions[f"{baseline} int8"], pixels)()
            assert F.cosine_similarity(quantized, expected).min() > 0.98
