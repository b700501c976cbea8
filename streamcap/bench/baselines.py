"""The baselines onnxruntime and OpenVINO, if installed: same weights, on a CPU, with as many threads as torch.

Each converts the graph of `streamcap.bench.onnx_graph` with its usual converter. int8 is what the packages offer:
`quantize_dynamic` of onnxruntime, and OpenVINO's compressed int8 weights.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamcap.bench.onnx_graph import Step, Tower, export, with_int8_weights
from streamcap.captioner.kernels.int8_torch import int8_saturates
from streamcap.extras import install_command

PRECISIONS = ("fp32", "int8")
ONNXRUNTIME, OPENVINO = "onnxruntime", "OpenVINO"
NEEDED = {ONNXRUNTIME: ("onnxruntime", "onnx", "onnxscript"), OPENVINO: ("openvino",)}
"""The packages that each baseline needs."""


class Session(Protocol):
    """A compiled graph. Values are the runtime's own tensors, so that the cache is not copied at every token."""

    def value(self, array: npt.NDArray[Any]) -> Any:
        """An input with the content of `array`, which must not change until it is read."""

    def run(self, values: Sequence[Any]) -> list[Any]:
        """The outputs for these inputs, valid until the call after the next one."""

    def array(self, value: Any) -> npt.NDArray[Any]:
        """An output as an array."""


@dataclass(slots=True)
class Baselines:
    """Sessions by contender name, and for each baseline without one the reason."""

    sessions: dict[str, Session] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def missing(baseline: str) -> str | None:
    """Why `baseline` cannot be measured; None if it can."""
    absent = [name for name in NEEDED[baseline] if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed; {install_command('baselines')}" if absent else None


@contextmanager
def baselines(
    graph: Callable[[], Step | Tower],
    device: torch.device,
    precisions: Iterable[str],
    leave_out: Iterable[str] = (),
) -> Iterator[Baselines]:
    """Sessions of `graph` for each installed baseline and precision; their files are deleted at the end.

    Contenders are called `onnxruntime fp32`, `OpenVINO int8` and so on. leave_out: prefixes of contender names that are
    neither built nor reported.
    """
    omitted = tuple(leave_out)
    result = Baselines()
    with TemporaryDirectory(prefix="streamcap-bench-") as folder:
        for baseline, start in ((ONNXRUNTIME, _onnxruntime), (OPENVINO, _openvino)):
            requested = [
                name for name in PRECISIONS if name in precisions and not f"{baseline} {name}".startswith(omitted)
            ]
            if not requested:
                continue
            reason = missing(baseline) if device.type == "cpu" else "it is measured only on a CPU"
            if reason is None:
                try:
                    sessions = start(graph(), requested, Path(folder))
                    result.sessions |= {f"{baseline} {name}": session for name, session in sessions.items()}
                # A converter of another version may raise anything; the other rows must not be lost.
                except Exception as error:  # noqa: BLE001
                    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            if reason is not None:
                result.left_out[baseline] = reason
        yield result


class GreedyLoop:
    """Greedy decoding with a session of `Step`, for prefixes (B, P, width)."""

    def __init__(self, session: Session, model: Any, tokens: int) -> None:
        """model: the session's GPT-2, from transformers."""
        self._session = session
        self._embeddings: npt.NDArray[np.float32] = model.transformer.wte.weight.detach().numpy()
        config = model.config
        self._cache = (2 * config.n_layer, config.n_head, config.n_embd // config.n_head)
        self._tokens = tokens

    def __call__(self, prefixes: Tensor) -> list[list[int]]:
        session = self._session
        embeddings = prefixes.numpy()
        count, heads, width = self._cache
        cache = [session.value(np.zeros((len(prefixes), heads, 0, width), np.float32)) for _ in range(count)]
        steps: list[npt.NDArray[np.int64]] = []
        past = 0
        while True:
            total = past + embeddings.shape[1]
            positions = np.arange(past, total)
            mask = np.where(np.arange(total) <= positions[:, None], np.float32(0), np.float32(-np.inf))
            inputs = [session.value(array) for array in (embeddings, positions, mask)]
            logits, *cache = session.run([*inputs, *cache])
            steps.append(session.array(logits).argmax(-1))
            if len(steps) == self._tokens:
                rows: list[list[int]] = np.stack(steps, axis=1).tolist()
                return rows
            past, embeddings = total, self._embeddings[steps[-1]][:, None]


def encoder(session: Session, pixels: Tensor) -> Callable[[], Tensor]:
    """A call of a session of `Tower` on normalized pixels (B, 3, side, side)."""
    value = session.value(pixels.contiguous().numpy())
    return lambda: torch.from_numpy(session.array(session.run([value])[0]))


def _onnxruntime(graph: Step | Tower, precisions: Iterable[str], folder: Path) -> dict[str, Session]:
    with _quiet():
        fp32 = folder / "fp32.onnx"
        program: Any = torch.onnx.export(export(graph), (), dynamo=True, verbose=False)
        program.save(fp32)
        if "int8" in precisions:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            # Only MatMul, as is usual for transformers; 7-bit weights on CPUs without VNNI
            # (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
            quantize_dynamic(
                fp32,
                folder / "int8.onnx",
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=int8_saturates(),
                weight_type=QuantType.QInt8,
            )
    return {name: _OnnxRuntime(folder / f"{name}.onnx") for name in precisions}


class _OnnxRuntime:
    def __init__(self, path: Path) -> None:
        import onnxruntime

        self._values = onnxruntime.OrtValue
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs = [each.name for each in self._session.get_inputs()]
        self._outputs = [each.name for each in self._session.get_outputs()]

    def value(self, array: npt.NDArray[Any]) -> Any:
        return self._values.ortvalue_from_numpy(array)

    def run(self, values: Sequence[Any]) -> list[Any]:
        outputs: list[Any] = self._session.run_with_ort_values(
            self._outputs, dict(zip(self._inputs, values, strict=True))
        )
        return outputs

    def array(self, value: Any) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = value.numpy()
        return array


def _openvino(graph: Step | Tower, precisions: Iterable[str], folder: Path) -> dict[str, Session]:
    library = _import_openvino()
    sessions: dict[str, Session] = {}
    for name in precisions:
        with _quiet():
            program = export(with_int8_weights(graph) if name == "int8" else graph)
            model = library.convert_model(program)
        sessions[name] = _OpenVino(library, model)
    return sessions


class _OpenVino:
    def __init__(self, library: Any, model: Any) -> None:
        self._tensor = library.Tensor
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_HYPER_THREADING": True,  # without it, OpenVINO uses at most one thread per physical core
        }
        compiled = library.Core().compile_model(model, "CPU", settings)
        self._count = len(compiled.outputs)
        # Two, used alternately: the outputs of one are the inputs of the next.
        self._requests = [compiled.create_infer_request() for _ in range(2)]

    def value(self, array: npt.NDArray[Any]) -> Any:
        return self._tensor(np.ascontiguousarray(array))

    def run(self, values: Sequence[Any]) -> list[Any]:
        self._requests.reverse()
        request = self._requests[0]
        for number, value in enumerate(values):
            request.set_input_tensor(number, value)
        request.infer(share_outputs=True)
        return [request.get_output_tensor(number) for number in range(self._count)]

    def array(self, value: Any) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = value.data
        return array


def _import_openvino() -> Any:
    """OpenVINO without `openvino_telemetry`, which would report every import and conversion to Intel."""
    blocked = "openvino_telemetry"
    before = sys.modules.get(blocked)
    sys.modules[blocked] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if before is None:
            del sys.modules[blocked]
        else:
            sys.modules[blocked] = before
    return openvino


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the converters: they log at length, warn of deprecated torch calls and reconfigure the root logger."""
    root = logging.getLogger()
    level, handlers, disabled = root.level, list(root.handlers), logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, FutureWarning, UserWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers
