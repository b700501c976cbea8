"""Functions of fixed shapes, recorded once as a CUDA graph and replayed; where there is no GPU, simply called.

A decode step of a small GPT-2 is some 150 kernels, each shorter than launching it from Python takes. Replaying a graph
launches them all at once (torch.cuda.CUDAGraph; https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

log = logging.getLogger(__name__)

WARM_UP_CALLS = 3
"""Calls before the recording, in which libraries choose their kernels and take their workspaces."""

_failed = False
_streams: dict[torch.device, torch.cuda.Stream] = {}
"""One side stream a device for all warming up and recording: each stream that multiplies keeps a workspace."""


def capture_failed() -> bool:
    """Whether a recording has failed in this process; from then on everything is called as it is."""
    return _failed


class GraphedCallable:
    """`call` on inputs of one shape. `call` takes and returns tensors, does all its work on the device, and may write
    into tensors that outlive it; their memory must stay where it is.

    The results are the same tensors every time and hold until the next call.
    """

    def __init__(self, call: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Tensor], device: torch.device) -> None:
        self._call = call
        self._inputs = [given.clone() for given in inputs]
        self._outputs: tuple[Tensor, ...] = ()
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda" and not _failed:
            self._record(device)

    def _record(self, device: torch.device) -> None:
        global _failed
        try:
            # The device need not be the current one, and a graph is recorded on a stream of the current one.
            with torch.cuda.device(device):
                self._capture(device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if isinstance(error.__context__, torch.OutOfMemoryError):
                # The recording ends with an error of its own when what it recorded has failed.
                raise error.__context__ from None
            _failed = True
            torch.cuda.synchronize(device)
            reason = str(error).strip().partition("\n")[0]
            log.warning("CUDA graphs are not to be had, decoding launches each kernel: %s", reason)

    def _capture(self, device: torch.device) -> None:
        stream = _streams.get(device)
        if stream is None:
            stream = _streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                self._call(*self._inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Another thread, which decodes video on the same GPU, may allocate meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self._outputs = self._call(*self._inputs)
        self._graph = graph

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given, non_blocking=True)
        if self._graph is None:
            return self._call(*self._inputs)
        self._graph.replay()
        return self._outputs


def bucket(count: int, most: int) -> int:
    """The power of two that `count` rows are run as, at most `most`."""
    return min(most, 1 << max(0, count - 1).bit_length())
