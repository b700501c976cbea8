"""onnxruntime and OpenVINO with the same weights, where they are installed: on a CPU, with as many threads as torch.

Each takes the graph of `streamcap.bench.onnx_graph` by its usual converter. int8 is what comes with the package:
onnxruntime's `quantize_dynamic`; in OpenVINO, weights of 8 bits, the form it knows as compressed weights.
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

from streamcap.bench.onnx_graph import Step, Tower, export, with_codes
from streamcap.captioner.kernels.int8_torch import int8_saturates
from streamcap.extras import install_command

PRECISIONS = ("fp32", "int8")
ONNXRUNTIME, OPENVINO = "onnxruntime", "OpenVINO"
NEEDED = {ONNXRUNTIME: ("onnxruntime", "onnx", "onnxscript"), OPENVINO: ("openvino",)}
"""The packages that each peer is measured with."""


class Session(Protocol):
    """A graph that is ready to run. Values are the runtime's own, so that a cache need not be copied at every token."""

    def value(self, array: npt.NDArray[Any]) -> Any:
        """`array`, which must not change until it has been read, as an input."""

    def run(self, values: Sequence[Any]) -> list[Any]:
        """Outputs, in order, for inputs in order. They hold until the next call but one."""

    def array(self, value: Any) -> npt.NDArray[Any]:
        """An output's numbers."""


@dataclass(slots=True)
class Baselines:
    """What can be measured, by contender, and why the rest cannot."""

    sessions: dict[str, Session] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def missing(baseline: str) -> str | None:
    """Why `baseline` cannot be measured here, or None."""
    absent = [name for name in NEEDED[baseline] if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} not installed; {install_command('peers')}" if absent else None


@contextmanager
def baselines(
    graph: Callable[[], Step | Tower],
    device: torch.device,
    precisions: Iterable[str],
    leave_out: Iterable[str] = (),
) -> Iterator[Baselines]:
    """Sessions of `graph` for each installed peer and precision, their files in a folder that goes at the end.

    Contenders are called `onnxruntime fp32`, `OpenVINO int8` and so on; those that begin with one of `leave_out` are
    neither made nor mentioned.
    """
    omitted = tuple(leave_out)
    found = Baselines()
    with TemporaryDirectory(prefix="streamcap-bench-") as folder:
        for baseline, start in ((ONNXRUNTIME, _onnxruntime), (OPENVINO, _openvino)):
            wanted = [
                name for name in PRECISIONS if name in precisions and not f"{baseline} {name}".startswith(omitted)
            ]
            if not wanted:
                continue
            reason = missing(baseline) if device.type == "cpu" else "it is measured on a CPU alone"
            if reason is None:
                try:
                    sessions = start(graph(), wanted, Path(folder))
                    found.sessions |= {f"{baseline} {name}": session for name, session in sessions.items()}
                # A converter of another version may raise anything; the other rows are worth having all the same.
                except Exception as error:  # noqa: BLE001
                    reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            if reason is not None:
                found.left_out[baseline] = reason
        yield found


class GreedyLoop:
    """A greedy loop over a session of `Step`, for prefixes (B, P, width)."""

    def __init__(self, session: Session, model: Any, tokens: int) -> None:
        """model: transformers' GPT-2 that the session was made of."""
        self._session = session
        self._words: npt.NDArray[np.float32] = model.transformer.wte.weight.detach().numpy()
        config = model.config
        self._cache = (2 * config.n_layer, config.n_head, config.n_embd // config.n_head)
        self._tokens = tokens

    def __call__(self, prefixes: Tensor) -> list[list[int]]:
        session = self._session
        embeddings = prefixes.numpy()
        count, heads, width = self._cache
        cache = [session.value(np.zeros((len(prefixes), heads, 0, width), np.float32)) for _ in range(count)]
        found: list[npt.NDArray[np.int64]] = []
        past = 0
        while True:
            total = past + embeddings.shape[1]
            positions = np.arange(past, total)
            mask = np.where(np.arange(total) <= positions[:, None], np.float32(0), np.float32(-np.inf))
            inputs = [session.value(each) for each in (embeddings, positions, mask)]
            logits, *cache = session.run([*inputs, *cache])
            found.append(session.array(logits).argmax(-1))
            if len(found) == self._tokens:
                rows: list[list[int]] = np.stack(found, axis=1).tolist()
                return rows
            past, embeddings = total, self._words[found[-1]][:, None]


def encoder(session: Session, pixels: Tensor) -> Callable[[], Tensor]:
    """A call of a session of `Tower` on normalised pixels (B, 3, side, side)."""
    given = session.value(pixels.contiguous().numpy())
    return lambda: torch.from_numpy(session.array(session.run([given])[0]))


def _onnxruntime(graph: Step | Tower, precisions: Iterable[str], folder: Path) -> dict[str, Session]:
    with _quiet():
        whole = folder / "fp32.onnx"
        program: Any = torch.onnx.export(export(graph), (), dynamo=True, verbose=False)
        program.save(whole)
        if "int8" in precisions:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            # Products alone, as is usual for transformers; weights of 7 bits where sums of full bytes saturate
            # (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
            quantize_dynamic(
                whole,
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
            program = export(with_codes(graph) if name == "int8" else graph)
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
            "ENABLE_HYPER_THREADING": True,  # else it takes no more threads than there are whole cores
        }
        compiled = library.Core().compile_model(model, "CPU", settings)
        self._count = len(compiled.outputs)
        # Two in turn, as the outputs of one are the inputs of the next.
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
    """OpenVINO without `openvino_telemetry`, which tells Intel of every import and conversion unless it is missing."""
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
    """Converters warn of torch's own deprecated calls, tell at length what they do, and set up everybody's logging."""
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
