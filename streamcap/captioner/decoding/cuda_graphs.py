"""`GraphedCallable`: a function of fixed shapes, captured once as a CUDA graph and replayed; without a GPU, called.

A decode step of a small GPT-2 is 80 to 170 kernels, each of which runs for less time than its launch from Python takes.
Replaying a graph launches them all at once (torch.cuda.CUDAGraph;
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

log = logging.getLogger(__name__)

WARM_UP_CALLS = 3
"""Calls before the capture, in which libraries select kernels and allocate workspaces."""

_failed = False
_streams: dict[torch.device, torch.cuda.Stream] = {}
"""One stream per device for all warm-ups and captures: cuBLAS keeps a workspace for every stream."""


def capture_failed() -> bool:
    """Whether a capture has failed in this process; every GraphedCallable then calls its function."""
    return _failed


def capture(
    call: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], device: torch.device
) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
    """A graph of `call` on a GPU, and the tensors that a replay writes. Raises RuntimeError where it cannot be made."""
    # A capture runs on a stream of the current device, which may be another one.
    with torch.cuda.device(device):
        stream = _streams.get(device)
        if stream is None:
            stream = _streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                call(*inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread that decodes video on the same GPU may allocate memory during the capture.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            outputs = call(*inputs)
    return graph, outputs


class GraphedCallable:
    """`call` for inputs of one shape.

    `call` takes and returns tensors and works only on the device. It may write to other tensors, which must stay at
    their addresses. The results are the same tensors every time, valid until the next call.
    """

    def __init__(self, call: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], device: torch.device) -> None:
        self._call = call
        self._inputs = [tensor.clone() for tensor in inputs]
        self._outputs: tuple[Tensor, ...] = ()
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda" and not _failed:
            self._record(device)

    def _record(self, device: torch.device) -> None:
        global _failed
        try:
            self._graph, self._outputs = capture(self._call, self._inputs, device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if isinstance(error.__context__, torch.OutOfMemoryError):
                # When the captured code fails, ending the capture raises an error of its own.
                raise error.__context__ from None
            _failed = True
            torch.cuda.synchronize(device)
            reason = str(error).strip().partition("\n")[0]
            log.warning("CUDA graphs unavailable; falling back to eager decoding: %s", reason)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for static, tensor in zip(self._inputs, inputs, strict=True):
            static.copy_(tensor, non_blocking=True)
        if self._graph is None:
            return self._call(*self._inputs)
        self._graph.replay()
        return self._outputs


class GraphedEncoder:
    """`encode`, which takes uint8 pixels (B, H, W, 3), for batches of any size: a graph for each power of two."""

    def __init__(self, encode: Callable[[Tensor], Tensor], max_images: int, device: torch.device) -> None:
        self._encode = encode
        self._max_images = max_images
        self._device = device
        self._graphs: dict[tuple[int, ...], GraphedCallable] = {}

    def __call__(self, pixels: Tensor) -> Tensor:
        count = len(pixels)
        shape = (bucket(count, self._max_images), *pixels.shape[1:])
        padded = torch.zeros(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        padded[:count] = pixels
        graph = self._graphs.get(shape)
        if graph is None:
            graph = GraphedCallable(lambda batch: (self._encode(batch),), [padded.to(self._device)], self._device)
            self._graphs[shape] = graph
        (out,) = graph(padded)
        return out[:count].clone()


def bucket(count: int, max_size: int) -> int:
    """The batch size for `count` rows: the next power of two, at most `max_size`."""
    return min(max_size, 1 << max(0, count - 1).bit_length())
