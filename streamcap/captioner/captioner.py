"""`Captioner`: a loaded checkpoint of any family, ready to caption."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamcap.captioner.caption_text import CaptionText
from streamcap.captioner.checkpoints import Checkpoint
from streamcap.captioner.continuous_decoder import ContinuousDecoder
from streamcap.captioner.decoding.batch import ContinuousBatch, StopCriteria
from streamcap.captioner.decoding.batch_limit import BatchLimit
from streamcap.captioner.decoding.beam import Hypothesis, beam_search
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.decoding.cuda_graphs import GraphedEncoder
from streamcap.captioner.decoding.draft_budget import DraftBudget
from streamcap.captioner.decoding.drafts import Acceptances, Drafts, DraftSource, DraftStatistics, draft_sources
from streamcap.captioner.decoding.sampling import make_sampler
from streamcap.captioner.decoding.verifier import Verifier
from streamcap.captioner.grounding.grounding import Grounding
from streamcap.captioner.kernels.precision import convert
from streamcap.captioner.missing_parts import resolve_tower
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.prompt import Prompt, Prompter
from streamcap.captioner.models.vision import Vision
from streamcap.captioner.options import SearchOptions
from streamcap.captioner.preprocess import fit_images, image_list
from streamcap.captioner.result import Result
from streamcap.errors import InputError, StreamcapError
from streamcap.image_spec import ImageSpec

if TYPE_CHECKING:
    from streamcap.captioner.preprocess import ImageInput

OnText = Callable[[int, list[int]], None]

MAX_ROWS = {"cpu": 32, "cuda": 512}
"""Captions decoded in one batch; further captions wait."""
MAX_IMAGES = {"cpu": 16, "cuda": 256}
"""Images encoded in one pass."""
MAX_BEAM_ROWS = {"cpu": 64, "cuda": 1024}
"""Beams of all captions in one batch."""


class Captioner:
    """Captions images, clips or embeddings. Not thread-safe: use one thread at a time.

    A tokenizer or vision tower that the checkpoint lacks is loaded when it is first needed.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        precision: str = "fp32",
        vision: str | Path | None = None,
        tokenizer: str | Path | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._precision = precision
        self._vision_name = vision
        self._parameters = sum(p.numel() for p in (*checkpoint.gpt2.parameters(), *checkpoint.prompter.parameters()))
        self._gpt2: GPT2 = convert(checkpoint.gpt2, precision, device)
        self._prompter: Prompter = convert(checkpoint.prompter, precision, device)
        self._vision: Vision | None = None
        if checkpoint.vision is not None and vision is None:
            self._parameters += sum(p.numel() for p in checkpoint.vision.parameters())
            self._vision = convert(checkpoint.vision, precision, device)
        self._image_limit = BatchLimit(MAX_IMAGES[device.type], "images", device)
        self._row_limit = BatchLimit(MAX_ROWS[device.type], "captions", device)
        self._beam_limit = BatchLimit(MAX_BEAM_ROWS[device.type], "beams", device)
        self._batch: CudaGraphBatch[Any] | None = None
        self._graphed: GraphedEncoder | None = None
        if device.type == "cuda":
            self._graphed = GraphedEncoder(lambda batch: self._tower().encode(batch), MAX_IMAGES["cuda"], device)
        self.draft_statistics = DraftStatistics()
        """How many draft tokens were proposed and accepted, over all calls; zeros without drafts."""
        self._draft_acceptances = Acceptances()
        self._verifier: Verifier | None = None
        if self._can_draft():
            self._verifier = Verifier(DraftBudget(), self.draft_statistics, self._gpt2.config.vocab_size)
        self._text = CaptionText(checkpoint, tokenizer, self._prompter)
        self._grounding = checkpoint.grounding

    def _can_draft(self) -> bool:
        """Whether drafts keep the tokens: where a position's result does not depend on the positions beside it.

        On a GPU that has not been measured yet, so drafts are off unless STREAMCAP_CUDA_DRAFTS is 1.
        """
        if self._device.type == "cuda":
            return os.environ.get("STREAMCAP_CUDA_DRAFTS") == "1"
        return self._gpt2.backend.row_independent or self._precision == "fp32"

    # Properties of the model --------------------------------------------------------------------------------------

    @property
    def image_spec(self) -> ImageSpec:
        """The pixels that `encode` takes. Raises InputError if no vision tower is available."""
        return self._tower().image_spec

    @property
    def clip_length(self) -> int | None:
        """Frames per caption; None: the model captions single images."""
        return self._checkpoint.clip_length

    @property
    def max_tokens(self) -> int:
        """The default limit of a caption's tokens."""
        return self._checkpoint.max_tokens

    @property
    def info(self) -> dict[str, Any]:
        """Family, sizes, precision and device, as JSON values."""
        config = self._gpt2.config
        shape = self._checkpoint.embedding
        return {
            "family": self._checkpoint.family,
            "path": str(self._checkpoint.path),
            "parameters": self._parameters,
            "precision": self._precision,
            "device": str(self._device),
            "gpt2": {"width": config.n_embd, "layers": config.n_layer, "heads": config.n_head}
            | {"vocabulary": config.vocab_size, "positions": config.n_positions},
            "embedding_width": shape.width,
            "clip_length": self.clip_length,
            "max_tokens": self.max_tokens,
            "image": self._vision.image_spec.to_json() if self._vision is not None else None,
        }

    @property
    def grounding(self) -> Grounding | None:
        """What an image's tags deny; None for checkpoints without tags."""
        return self._grounding

    @torch.inference_mode()
    def tags(self, embeddings: Tensor) -> Tensor:
        """The probabilities (B, K) of the tags of embeddings (B, N, C). Raises InputError for a checkpoint without."""
        tags = [prompt.tags for prompt in self._prompts(embeddings) if prompt.tags is not None]
        if not tags:
            raise InputError(f"{self._checkpoint.path}: has no tags")
        return torch.stack(tags)

    # Captions ---------------------------------------------------------------------------------------------------

    def caption(
        self,
        images: Sequence[ImageInput] | Sequence[Sequence[ImageInput]],
        beam_size: int = 1,
        temperature: float = 0.0,
        max_tokens: int | None = None,
        *,
        top_p: float = 1.0,
        seed: int | None = None,
        drafts: Drafts | None = None,
    ) -> list[Result]:
        """One result for each image, in order.

        images: uint8 RGB arrays (H, W, 3) of any size, or PIL images. For a clip model, a sequence of clips, each a
        sequence of frames. drafts: see `decode`. Raises InputError for an input that is no image, for unusable drafts,
        and if no vision tower is available.
        """
        search = SearchOptions(beam_size, temperature, top_p, seed, max_tokens)
        inputs = image_list(images)
        if not inputs:
            return []
        spec = self.image_spec
        step = MAX_IMAGES[self._device.type]
        embeddings = []
        for start in range(0, len(inputs), step):
            chunk = inputs[start : start + step]
            if self.clip_length is None:
                embeddings.append(self.encode(fit_images(chunk, spec)))
            else:
                clips = [self._clip(clip, spec, start + number) for number, clip in enumerate(chunk)]
                embeddings.append(self.encode(np.stack(clips)))
        return self.decode(torch.cat(embeddings), search, drafts=drafts)

    def _clip(self, frames: object, spec: ImageSpec, number: int) -> npt.NDArray[np.uint8]:
        if isinstance(frames, np.ndarray) and frames.ndim == 4:
            frames = list(frames)
        if not isinstance(frames, Sequence) or len(frames) != self.clip_length:
            actual = f"{len(frames)} frames" if isinstance(frames, Sequence) else f"a {type(frames).__name__}"
            raise InputError(f"clip {number}: a sequence of {self.clip_length} frames is expected, not {actual}")
        return fit_images(frames, spec, name=f"clip {number}, frame")

    def caption_embeddings(
        self,
        x: Tensor | npt.ArrayLike,
        beam_size: int = 1,
        max_tokens: int | None = None,
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        drafts: Drafts | None = None,
    ) -> list[Result]:
        """One result for each embedding of a vision encoder.

        x: (B, C); for clip models (B, T, C); for models with cross-attention the encoder's states, (B, N, C). `text`
        is empty if no tokenizer is available. drafts: see `decode`. Raises InputError for any other shape, for numbers
        that are not finite, and for unusable drafts.
        """
        search = SearchOptions(beam_size, temperature, top_p, seed, max_tokens)
        return self.decode(self._checkpoint.embedding.check(x).to(self._device), search, drafts=drafts)

    # Encode and decode, the two stages that the live engine runs separately -----------------------------------------

    @torch.inference_mode()
    def encode(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 (B, H, W, 3), for a clip model (B, T, H, W, 3), in `image_spec`'s size → embeddings, one a row."""
        clips = pixels.ndim == 5
        flat = torch.from_numpy(np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[2:]) if clips else pixels))
        encode = self._tower().encode if self._graphed is None else self._graphed
        chunks = self._image_limit.run(
            len(flat), lambda max_rows: [encode(chunk) for chunk in torch.split(flat, max_rows)]
        )
        out = chunks[0] if len(chunks) == 1 else torch.cat(chunks)
        return out.view(pixels.shape[0], pixels.shape[1], -1) if clips else out

    def features(self, embeddings: Tensor) -> npt.NDArray[np.float32]:
        """One unit vector for each row, float32 (B, D), whose cosine shows how much an image has changed.

        For a clip: its newest frame. For encoder states: the class token. For a grid: all cells.
        """
        rows = embeddings.detach().float()
        if rows.dim() == 3 and self.clip_length is not None:
            rows = rows[:, -1]
        elif rows.dim() == 3 and self._checkpoint.embedding.count is None:
            rows = rows[:, 0]
        unit = torch.nn.functional.normalize(rows.flatten(1), dim=-1)
        out: npt.NDArray[np.float32] = unit.cpu().numpy()
        return out

    @torch.inference_mode()
    def decode(
        self,
        embeddings: Tensor,
        search: SearchOptions | None = None,
        *,
        on_text: OnText | None = None,
        drafts: Drafts | None = None,
    ) -> list[Result]:
        """One result for each row of `embeddings`, the output of `encode`.

        on_text: called with (row, tokens so far) after every pass of an unfinished caption, in greedy search and
        sampling; must not block. drafts: for each row a guess of the caption, as tokens or as a DraftSource, or None;
        greedy search only. Drafts change the time, never the tokens. They are ignored on a GPU, and where a pass over
        several positions rounds differently from one pass for each (bf16, fp16, torch's int8).

        Raises InputError if `max_tokens` exceeds GPT-2's positions; if the number of drafts is not that of the rows; if
        a draft has tokens outside the vocabulary or exceeds GPT-2's positions; and for drafts with beams or sampling.
        """
        search = search or SearchOptions()
        if not len(embeddings):
            return []
        prompts = self._prompts(embeddings)
        longest = max(prompt.length for prompt in prompts)
        stop_criteria = self._stop_criteria(search, longest)
        sources = None
        if drafts is not None:
            if search.beam_size > 1 or search.temperature > 0:
                raise InputError("drafts are for greedy search: without beams and at temperature 0")
            config = self._gpt2.config
            positions = config.n_positions - longest + 1
            sources = draft_sources(drafts, len(prompts), config.vocab_size, positions, self._draft_acceptances)
        if search.beam_size > 1:
            size = search.beam_size
            return self._beam_limit.run(
                len(prompts) * size,
                lambda max_rows: self._search(prompts, size, stop_criteria, max(1, max_rows // size)),
                min_rows=size,
            )
        return self._row_limit.run(
            len(prompts), lambda max_rows: self._decode(prompts, search, stop_criteria, on_text, sources, max_rows)
        )

    def _search(self, prompts: list[Prompt], size: int, stop_criteria: StopCriteria, step: int) -> list[Result]:
        hypotheses: list[Hypothesis] = []
        for start in range(0, len(prompts), step):
            hypotheses += beam_search(self._gpt2, prompts[start : start + step], stop_criteria, size)
        return [
            self._result(best.tokens, best.logprob, best.passes, prompt)
            for best, prompt in zip(hypotheses, prompts, strict=True)
        ]

    def _decode(
        self,
        prompts: list[Prompt],
        search: SearchOptions,
        stop_criteria: StopCriteria,
        on_text: OnText | None,
        drafts: Sequence[DraftSource | None] | None,
        max_rows: int,
    ) -> list[Result]:
        # The batch and its CUDA graphs are kept from call to call, but not after a failure.
        previous, self._batch = self._batch, None
        reusable = previous is not None and search.temperature == 0 and previous.stop_criteria == stop_criteria
        batch = previous if previous is not None and reusable else self._new_batch(search, stop_criteria, max_rows)
        for number, prompt in enumerate(prompts):
            batch.add(number, prompt, None if drafts is None else drafts[number])
        finished: dict[int, Result] = {}
        while batch.active:
            for row in batch.step():
                finished[row.key] = self._result(row.tokens, row.logprob, row.passes, prompts[row.key])
            if on_text is not None:
                for row in batch.rows:
                    on_text(row.key, row.tokens)
        if isinstance(batch, CudaGraphBatch):
            self._batch = batch
        return [finished[number] for number in range(len(prompts))]

    def _new_batch(
        self, search: SearchOptions, stop_criteria: StopCriteria, rows: int
    ) -> ContinuousBatch[Any] | CudaGraphBatch[Any]:
        if self._device.type == "cuda" and search.temperature == 0:
            return CudaGraphBatch(self._gpt2, stop_criteria, max_rows=rows, verifier=self._verifier)
        verifier = self._verifier if search.temperature == 0 else None
        return ContinuousBatch(self._gpt2, make_sampler(search), stop_criteria, max_rows=rows, verifier=verifier)

    def _result(self, tokens: list[int], logprob: float, passes: int, prompt: Prompt) -> Result:
        if not math.isfinite(logprob):
            advice = "use precision fp32" if self._precision != "fp32" else "the checkpoint may be damaged"
            raise StreamcapError(
                f"{self._checkpoint.path}: decoding in {self._precision} produced NaN or infinity; {advice}"
            )
        text = self.text(tokens)
        confidence = None
        if self._grounding is not None and prompt.tags is not None:
            text, confidence = self._grounding.judge(text, logprob, prompt.tags)
        return Result(text, tokens, logprob, confidence, passes)

    def decoder(self, search: SearchOptions | None = None, *, max_rows: int | None = None) -> ContinuousDecoder[Any]:
        """Continuous batching: captions may join the batch at any step. Raises InputError for a search with beams."""
        search = search or SearchOptions()
        if search.beam_size > 1:
            raise InputError("continuous batching supports greedy search and sampling, not beams")
        return ContinuousDecoder(
            make_prompt=lambda embedding: self._prompts(embedding.unsqueeze(0))[0],
            new_batch=lambda prompt, rows: self._new_batch(search, self._stop_criteria(search, prompt.length), rows),
            make_result=self._result,
            batch_limit=BatchLimit(max_rows or MAX_ROWS[self._device.type], "captions", self._device),
        )

    def text(self, tokens: list[int]) -> str:
        """The text of `tokens`; empty if no tokenizer is available."""
        return self._text.text(tokens)

    def require_text(self) -> None:
        """Load the tokenizer. Raises InputError if none is available: captions would have tokens but no text."""
        self._text.load()

    # Internals ----------------------------------------------------------------------------------------------------

    def _prompts(self, embeddings: Tensor) -> list[Prompt]:
        self._text.stop_tokens()  # this may also change the prompter's first token
        return self._prompter.prompts(embeddings.to(self._device, self._gpt2.dtype), self._gpt2)

    def _stop_criteria(self, search: SearchOptions, prefix: int) -> StopCriteria:
        positions = self._gpt2.config.n_positions
        available = positions - prefix + 1
        if available < 1:
            raise InputError(f"a prefix of {prefix} positions is longer than GPT-2's {positions}")
        if search.max_tokens is not None and search.max_tokens > available:
            raise InputError(f"max_tokens {search.max_tokens} is more than GPT-2 has positions for ({available})")
        return StopCriteria(min(search.max_tokens or self.max_tokens, available), self._text.stop_tokens())

    def _tower(self) -> Vision:
        if self._vision is None:
            tower = resolve_tower(self._checkpoint, self._vision_name)
            self._parameters += sum(p.numel() for p in tower.parameters())
            self._vision = convert(tower, self._precision, self._device)
        return self._vision
