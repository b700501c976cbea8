"""`Captioner`: a loaded checkpoint of any family, ready to caption."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamcap.captioner import registry
from streamcap.captioner.checkpoints import Checkpoint, open_checkpoint
from streamcap.captioner.continuous_decoder import ContinuousDecoder
from streamcap.captioner.decoding.batch import ContinuousBatch, StopCriteria
from streamcap.captioner.decoding.batch_limit import BatchLimit
from streamcap.captioner.decoding.beam import Hypothesis, beam_search
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.decoding.cuda_graphs import GraphedCallable, bucket
from streamcap.captioner.decoding.draft_budget import DraftBudget
from streamcap.captioner.decoding.drafts import Acceptances, Drafts, DraftSource, DraftStatistics, draft_sources
from streamcap.captioner.decoding.sampling import make_sampler
from streamcap.captioner.decoding.tokenizer import TextDecoder
from streamcap.captioner.decoding.verifier import Verifier
from streamcap.captioner.kernels.precision import convert, find_device, find_precision
from streamcap.captioner.loading import find_tokenizer, find_tower
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.prompt import Prompt, Prompter, TwoPassPrefixPrompter
from streamcap.captioner.models.vision import Vision
from streamcap.captioner.options import SearchOptions
from streamcap.captioner.preprocess import fit_images
from streamcap.captioner.result import Result
from streamcap.errors import InputError, StreamcapError
from streamcap.image_spec import ImageSpec

if TYPE_CHECKING:
    from streamcap.captioner.preprocess import ImageInput

log = logging.getLogger(__name__)

OnText = Callable[[int, list[int]], None]

MAX_ROWS = {"cpu": 32, "cuda": 512}
"""Captions decoded side by side; more wait their turn."""
MAX_IMAGES = {"cpu": 16, "cuda": 256}
"""Images encoded in one pass."""
MAX_BEAM_ROWS = {"cpu": 64, "cuda": 1024}


class Captioner:
    """Captions images, clips or embeddings. All calls must come from one thread at a time.

    A tokenizer or vision tower that the checkpoint lacks is looked for when it is first needed.
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
        self._tokenizer_name = tokenizer
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
        self._encoders: dict[tuple[int, ...], GraphedCallable] = {}
        self.draft_statistics = DraftStatistics()
        """What became of the guesses of all calls; zeros where drafts are not used."""
        self._draft_acceptances = Acceptances()
        self._verifier: Verifier | None = None
        if device.type == "cpu" and (self._gpt2.backend.row_independent or precision == "fp32"):
            self._verifier = Verifier(DraftBudget(), self.draft_statistics, self._gpt2.config.vocab_size)
        self._text: TextDecoder | None = None
        self._text_missing: str | None = None
        self._stops: frozenset[int] | None = None

    # What the model is ------------------------------------------------------------------------------------------

    @property
    def image_spec(self) -> ImageSpec:
        """The pixels that `encode` takes. Raises InputError where no vision tower is to be had."""
        return self._tower().image_spec

    @property
    def clip_length(self) -> int | None:
        """Frames of one caption; None: single images."""
        return self._checkpoint.clip_length

    @property
    def max_tokens(self) -> int:
        """The most tokens a caption has unless told otherwise."""
        return self._checkpoint.max_tokens

    @property
    def info(self) -> dict[str, Any]:
        """Family, sizes, number format and device, fit for JSON."""
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

        images: uint8 RGB arrays (H, W, 3) of any size, or PIL images; for a clip model a sequence of sequences, one
        frame each. drafts: see `decode`. Raises InputError for what is no image, for drafts that cannot be used, and
        where no vision tower is to be had.
        """
        search = SearchOptions(beam_size, temperature, top_p, seed, max_tokens)
        given: list[Any] = list(images)
        if not given:
            return []
        spec = self.image_spec
        step = MAX_IMAGES[self._device.type]
        parts = []
        for start in range(0, len(given), step):
            some = given[start : start + step]
            if self.clip_length is None:
                parts.append(self.encode(fit_images(some, spec)))
            else:
                clips = [self._clip(clip, spec, start + number) for number, clip in enumerate(some)]
                parts.append(self.encode(np.stack(clips)))
        return self.decode(torch.cat(parts), search, drafts=drafts)

    def _clip(self, frames: object, spec: ImageSpec, number: int) -> npt.NDArray[np.uint8]:
        if isinstance(frames, np.ndarray) and frames.ndim == 4:
            frames = list(frames)
        if not isinstance(frames, Sequence) or len(frames) != self.clip_length:
            given = f"{len(frames)} frames" if isinstance(frames, Sequence) else f"a {type(frames).__name__}"
            raise InputError(f"clip {number}: a sequence of {self.clip_length} frames is expected, not {given}")
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
        """One result for each row of what the vision encoder would have given.

        x: (B, C), for clip models (B, T, C), for encoders whose states are attended to (B, N, C). `text` is empty
        where there is no tokenizer at hand. drafts: see `decode`. Raises InputError for another
        shape, and for drafts that cannot be used.
        """
        search = SearchOptions(beam_size, temperature, top_p, seed, max_tokens)
        return self.decode(self._embeddings(x), search, drafts=drafts)

    def _embeddings(self, x: Tensor | npt.ArrayLike) -> Tensor:
        shape = self._checkpoint.embedding
        try:
            given = x if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x, dtype=np.float32))
        except (TypeError, ValueError) as error:
            raise InputError(f"embeddings: an array of numbers is expected ({error})") from None
        wanted = " or ".join(
            f"(B, {shape.width})" if axes == 1 else f"(B, {shape.count or 'T'}, {shape.width})" for axes in shape.axes
        )
        if given.dim() - 1 not in shape.axes or given.shape[-1] != shape.width:
            raise InputError(f"embeddings have shape {tuple(given.shape)}, this model takes {wanted}")
        if given.dim() == 3 and given.shape[1] != (shape.count or given.shape[1]):
            raise InputError(f"embeddings have shape {tuple(given.shape)}, this model takes {wanted}")
        if given.dim() == 3 and given.shape[1] == 0:
            raise InputError("embeddings hold clips without a frame")
        embeddings = given.detach().to(self._device, torch.float32)
        if not bool(torch.isfinite(embeddings).all()):
            raise InputError("embeddings hold a number that is not finite")
        return embeddings

    # The stages, for a live engine ------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 (B, H, W, 3), or (B, T, H, W, 3) for a clip model, of `image_spec`'s size → embeddings of B rows."""
        clips = pixels.ndim == 5
        flat = torch.from_numpy(np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[2:]) if clips else pixels))
        encode = self._replay_encoder if self._device.type == "cuda" else self._tower().encode
        parts = self._image_limit.run(
            len(flat), lambda max_rows: [encode(some) for some in torch.split(flat, max_rows)]
        )
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out.view(pixels.shape[0], pixels.shape[1], -1) if clips else out

    def _replay_encoder(self, pixels: Tensor) -> Tensor:
        tower = self._tower()
        count = len(pixels)
        size = bucket(count, MAX_IMAGES[self._device.type])
        padded = torch.zeros((size, *pixels.shape[1:]), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        padded[:count] = pixels
        replay = self._encoders.get(tuple(padded.shape))
        if replay is None:
            replay = GraphedCallable(lambda given: (tower.encode(given),), [padded.to(self._device)], self._device)
            self._encoders[tuple(padded.shape)] = replay
        (out,) = replay(padded)
        return out[:count].clone()

    def features(self, embeddings: Tensor) -> npt.NDArray[np.float32]:
        """One vector of unit length for each row, to tell by cosine whether the image has changed: float32 (B, D).

        Of a clip its newest frame; of encoder states the class token; of a grid all cells.
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
        """One result for each row of `embeddings`, as `encode` gives them.

        on_text: called with (row, tokens so far) after every pass of a greedy or sampled caption that goes on; must
        not block. drafts: for each row what the caption may well be, as tokens or as a source of guesses, or None;
        greedy only. They change the time, never the tokens, and are not used where a pass over several positions
        rounds otherwise than one over each (bf16, fp16, torch's int8) or on a GPU.

        Raises InputError where `max_tokens` is more than GPT-2 has positions for, and for drafts that are not one a
        row, hold what is not in the vocabulary, are longer than GPT-2's positions, or come with beams or sampling.
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
        found: list[Hypothesis] = []
        for start in range(0, len(prompts), step):
            found += beam_search(self._gpt2, prompts[start : start + step], stop_criteria, size)
        return [self._result(best.tokens, best.logprob, best.passes) for best in found]

    def _decode(
        self,
        prompts: list[Prompt],
        search: SearchOptions,
        stop_criteria: StopCriteria,
        on_text: OnText | None,
        drafts: Sequence[DraftSource | None] | None,
        max_rows: int,
    ) -> list[Result]:
        # Slots and what was recorded for them serve call after call; after a failure they start anew.
        kept, self._batch = self._batch, None
        reusable = kept is not None and search.temperature == 0 and kept.stop_criteria == stop_criteria
        batch = kept if kept is not None and reusable else self._new_batch(search, stop_criteria, max_rows)
        for number, prompt in enumerate(prompts):
            batch.add(number, prompt, None if drafts is None else drafts[number])
        finished: dict[int, Result] = {}
        while batch.active:
            for row in batch.step():
                finished[row.key] = self._result(row.tokens, row.logprob, row.passes)
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
            return CudaGraphBatch(self._gpt2, stop_criteria, max_rows=rows)
        verifier = self._verifier if search.temperature == 0 else None
        return ContinuousBatch(self._gpt2, make_sampler(search), stop_criteria, max_rows=rows, verifier=verifier)

    def _result(self, tokens: list[int], logprob: float, passes: int) -> Result:
        if not math.isfinite(logprob):
            advice = "use precision fp32" if self._precision != "fp32" else "the checkpoint may be damaged"
            raise StreamcapError(
                f"{self._checkpoint.path}: decoding in {self._precision} gave numbers that are not finite; {advice}"
            )
        return Result(self.text(tokens), tokens, logprob, passes)

    def decoder(self, search: SearchOptions | None = None, *, max_rows: int | None = None) -> ContinuousDecoder[Any]:
        """A running batch that captions may join at any step. Raises InputError for a search with beams."""
        search = search or SearchOptions()
        if search.beam_size > 1:
            raise InputError("beam search decodes whole batches; a joining decoder is greedy or samples")
        return ContinuousDecoder(self, search, max_rows or MAX_ROWS[self._device.type])

    def text(self, tokens: list[int]) -> str:
        """The text of `tokens`; empty where there is no tokenizer at hand."""
        if self._text is None and self._text_missing is None:
            try:
                self._text = find_tokenizer(self._checkpoint, self._tokenizer_name)
            except InputError as error:
                if self._tokenizer_name is not None:
                    raise
                self._text_missing = str(error)
                log.warning("captions are tokens without text: %s", error)
        return "" if self._text is None else self._text.text(tokens, self._stop_tokens())

    def require_text(self) -> None:
        """Raises InputError where there is no tokenizer at hand, and captions would be tokens without text."""
        if self._text is None:
            self._text = find_tokenizer(self._checkpoint, self._tokenizer_name)

    # Inside -----------------------------------------------------------------------------------------------------

    def _prompts(self, embeddings: Tensor) -> list[Prompt]:
        self._stop_tokens()  # another tokenizer may begin with another token
        return self._prompter.prompts(embeddings.to(self._device, self._gpt2.dtype), self._gpt2)

    def _stop_criteria(self, search: SearchOptions, prefix: int) -> StopCriteria:
        room = self._gpt2.config.n_positions - prefix + 1
        if room < 1:
            raise InputError(f"a prefix of {prefix} positions is longer than GPT-2's {room + prefix - 1}")
        if search.max_tokens is not None and search.max_tokens > room:
            raise InputError(f"max_tokens {search.max_tokens} is more than GPT-2 has positions for ({room})")
        return StopCriteria(min(search.max_tokens or self.max_tokens, room), self._stop_tokens())

    def _stop_tokens(self) -> frozenset[int]:
        """The checkpoint's, or of another tokenizer than OpenAI's its own. Raises InputError where it has none."""
        if self._stops is None:
            self._stops = self._find_stops()
        return self._stops

    def _find_stops(self) -> frozenset[int]:
        checkpoint = self._checkpoint
        named = self._tokenizer_name or checkpoint.tokenizer or checkpoint.own_tokenizer
        if checkpoint.stop_rule == "fixed" or named is None:
            return checkpoint.stop_tokens
        try:
            self._text = self._text or find_tokenizer(self._checkpoint, self._tokenizer_name)
        except InputError:
            if self._tokenizer_name is not None:
                raise
            return checkpoint.stop_tokens
        periods, ends, begin = self._text.periods(), self._text.ends(), self._text.begin()
        if checkpoint.stop_rule == "period" and checkpoint.stop_tokens <= periods:
            # OpenAI's vocabulary: ClipCap goes on until this full stop, whatever else is said.
            return checkpoint.stop_tokens
        if checkpoint.stop_rule == "end" and isinstance(self._prompter, TwoPassPrefixPrompter) and begin is not None:
            self._prompter.bos_token = begin
        found = ends if checkpoint.stop_rule == "end" else periods | ends
        if not found:
            raise InputError(
                f"{checkpoint.path}: the tokenizer has no full stop and no end-of-text token of a usual name; give "
                "stop_token_id in the json beside the file"
            )
        return found

    def _tower(self) -> Vision:
        if self._vision is None:
            tower = find_tower(self._checkpoint, self._vision_name)
            self._parameters += sum(p.numel() for p in tower.parameters())
            self._vision = convert(tower, self._precision, self._device)
        return self._vision


def load_captioner(
    name: str | Path,
    device: str = "auto",
    precision: str = "auto",
    vision: str | Path | None = None,
    tokenizer: str | Path | None = None,
) -> Captioner:
    """The captioner of that name: `mini`, an alias (`streamcap models`), a file, a directory, or a hub `owner/name`.

    vision, tokenizer: a directory or hub name, for checkpoints that hold none. Raises InputError, one line, for
    anything that cannot be loaded.
    """
    where = find_device(device)
    number_format = find_precision(precision, where)
    checkpoint = open_checkpoint(registry.find_checkpoint(str(name)))
    return Captioner(checkpoint, device=where, precision=number_format, vision=vision, tokenizer=tokenizer)
