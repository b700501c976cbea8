"""`DecoderBackend`: runs a decoder pass as torch modules, as TorchScript or (see `kernels.install`) on CPU kernels."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from streamcap.captioner.models.attention_context import AttentionContext
from streamcap.captioner.models.kv_cache import KVCache
from streamcap.captioner.models.torchscript import Forward, to_torchscript


class DecoderBackend(Protocol):
    """Runs GPT-2's layers and its head. R rows, S positions a row."""

    row_independent: bool
    """Whether a position's result has the same bits in any batch."""

    def run_layers(self, x: Tensor, context: AttentionContext, output_steps: Tensor | None = None) -> Tensor:
        """x: (R, S, width) embeddings → hidden states (R, S, width) before the last norm.

        output_steps: int64 (R, W), rising in each row: only these positions are returned, (R, W, width).
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """(rows, width) → (rows, vocabulary), float32."""


class FusedStep(Protocol):
    """A whole pass over few positions, from token to token (see `kernels.fused_step`)."""

    max_queries: int
    """R · S, at most."""

    def __call__(self, tokens: Tensor, lengths: Tensor, cache: KVCache) -> tuple[Tensor, Tensor, Tensor]:
        """Run tokens (R, S) int64, which follow the lengths (R,) int64 of the first R rows of `cache`.

        Returns the most probable next token of each position, int64 (R, S), its log-probability, float64 (R, S), and
        the logits, float32 (R, S, V). Does not synchronize with the device.
        """


class EagerBackend:
    """The torch modules, called directly."""

    row_independent = False

    def __init__(self, layers: Forward, head: Forward) -> None:
        self._layers, self._head = layers, head

    def run_layers(self, x: Tensor, context: AttentionContext, output_steps: Tensor | None = None) -> Tensor:
        out = self._layers(x, context)
        return out if output_steps is None else out.gather(1, output_steps.unsqueeze(2).expand(-1, -1, out.shape[2]))

    def logits(self, hidden: Tensor) -> Tensor:
        return self._head(hidden)


class TorchScriptBackend(EagerBackend):
    """The modules as TorchScript, or called directly if TorchScript cannot compile them."""

    def __init__(self, layers: nn.Module, head: nn.Module) -> None:
        super().__init__(to_torchscript(layers), to_torchscript(head))
