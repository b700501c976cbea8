"""`Captioner`: a loaded checkpoint of any family, ready to caption."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamcap.captioner import registry
from streamcap.captioner.checkpoints import Checkpoint, open_checkpoint
from streamcap.captioner.checkpoints.towers import clip_directory
from streamcap.captioner.decoding.batch import ContinuousBatch, Request, StopCriteria
from streamcap.captioner.decoding.batch_limit import BatchLimit
from streamcap.captioner.decoding.beam import Hypothesis, beam_search
from streamcap.captioner.decoding.cuda_graph_batch import CudaGraphBatch
from streamcap.captioner.decoding.cuda_graphs import GraphedCallable, bucket
from streamcap.captioner.decoding.sampling import make_sampler
from streamcap.captioner.decoding.tokenizer import TextDecoder, load_tokenizer
from streamcap.captioner.grounding import Grounding
from streamcap.captioner.kernels.precision import convert, find_device, find_precision
from streamcap.captioner.models.gpt2 import GPT2
from streamcap.captioner.models.prompt import Prompt, Prompter
from streamcap.captioner.models.vision import Vision, fingerprint
from streamcap.captioner.options import SearchOptions
from streamcap.captioner.preprocess import fit_images
from streamcap.captioner.result import Result
from streamcap.errors import InputError, StreamcapError
from streamcap.image_spec import ImageSpec

if TYPE_CHECKING:
    from streamcap.captioner.preprocess import ImageInput

log = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)
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
        self._text: TextDecoder | None = None
        self._text_missing: str | None = None
        self._grounding = checkpoint.grounding

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
    ) -> list[Result]:
        """One result for each image, in order.

        images: uint8 RGB arrays (H, W, 3) of any size, or PIL images; for a clip model a sequence of sequences, one
        frame each. Raises InputError for what is no image, and where no vision tower is to be had.
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
        return self.decode(torch.cat(parts), search)

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
    ) -> list[Result]:
        """One result for each row of what the vision encoder would have given.

        x: (B, C), for clip models (B, T, C), for encoders whose states are attended to (B, N, C). `text` is empty
        where there is no tokenizer at hand. Raises InputError for another shape.
        """
        search = SearchOptions(beam_size, temperature, top_p, seed, max_tokens)
        return self.decode(self._embeddings(x), search)

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
        self, embeddings: Tensor, search: SearchOptions | None = None, *, on_text: OnText | None = None
    ) -> list[Result]:
        """One result for each row of `embeddings`, as `encode` gives them.

        on_text: called with (row, tokens so far) after every token of a greedy or sampled caption that goes on; must
        not block. Raises InputError where `max_tokens` is more than GPT-2 has positions for.
        """
        search = search or SearchOptions()
        if not len(embeddings):
            return []
        prompts = self._prompts(embeddings)
        stop_criteria = self._stop_criteria(search, max(prompt.length for prompt in prompts))
        if search.beam_size > 1:
            size = search.beam_size
            return self._beam_limit.run(
                len(prompts) * size,
                lambda max_rows: self._search(prompts, size, stop_criteria, max(1, max_rows // size)),
                min_rows=size,
            )
        return self._row_limit.run(
            len(prompts), lambda max_rows: self._decode(prompts, search, stop_criteria, on_text, max_rows)
        )

    def _search(self, prompts: list[Prompt], size: int, stop_criteria: StopCriteria, step: int) -> list[Result]:
        found: list[Hypothesis] = []
        for start in range(0, len(prompts), step):
            found += beam_search(self._gpt2, prompts[start : start + step], stop_criteria, size)
        return [self._result(best.tokens, best.logprob, prompt) for best, prompt in zip(found, prompts, strict=True)]

    def _decode(
        self,
        prompts: list[Prompt],
        search: SearchOptions,
        stop_criteria: StopCriteria,
        on_text: OnText | None,
        max_rows: int,
    ) -> list[Result]:
        # Slots and what was recorded for them serve call after call; after a failure they start anew.
        kept, self._batch = self._batch, None
        reusable = kept is not None and search.temperature == 0 and kept.stop_criteria == stop_criteria
        batch = kept if kept is not None and reusable else self._new_batch(search, stop_criteria, max_rows)
        for number, prompt in enumerate(prompts):
            batch.add(number, prompt)
        finished: dict[int, Result] = {}
        while batch.active:
            for row in batch.step():
                finished[row.key] = self._result(row.tokens, row.logprob, prompts[row.key])
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
        return ContinuousBatch(self._gpt2, make_sampler(search), stop_criteria, max_rows=rows)

    def _result(self, tokens: list[int], logprob: float, prompt: Prompt) -> Result:
        if not math.isfinite(logprob):
            advice = "use precision fp32" if self._precision != "fp32" else "the checkpoint may be damaged"
            raise StreamcapError(
                f"{self._checkpoint.path}: decoding in {self._precision} gave numbers that are not finite; {advice}"
            )
        text = self.text(tokens)
        if self._grounding is None or prompt.tags is None:
            return Result(text, tokens, logprob)
        return Result(text, tokens, logprob, self._grounding.estimate(text, logprob, prompt.tags))

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
                self._text = self._find_tokenizer()
            except InputError as error:
                if self._tokenizer_name is not None:
                    raise
                self._text_missing = str(error)
                log.warning("captions are tokens without text: %s", error)
        return "" if self._text is None else self._text.text(tokens, self._checkpoint.stop_tokens)

    def require_text(self) -> None:
        """Raises InputError where there is no tokenizer at hand, and captions would be tokens without text."""
        if self._text is None:
            self._text = self._find_tokenizer()

    # Inside -----------------------------------------------------------------------------------------------------

    def _prompts(self, embeddings: Tensor) -> list[Prompt]:
        return self._prompter.prompts(embeddings.to(self._device, self._gpt2.dtype), self._gpt2)

    def _stop_criteria(self, search: SearchOptions, prefix: int) -> StopCriteria:
        room = self._gpt2.config.n_positions - prefix + 1
        if room < 1:
            raise InputError(f"a prefix of {prefix} positions is longer than GPT-2's {room + prefix - 1}")
        if search.max_tokens is not None and search.max_tokens > room:
            raise InputError(f"max_tokens {search.max_tokens} is more than GPT-2 has positions for ({room})")
        return StopCriteria(min(search.max_tokens or self.max_tokens, room), self._checkpoint.stop_tokens)

    def _tower(self) -> Vision:
        if self._vision is None:
            tower = self._find_tower()
            width = self._checkpoint.embedding.width
            if tower.width != width:
                raise InputError(f"vision gives embeddings {tower.width} wide, this checkpoint takes {width}")
            self._parameters += sum(p.numel() for p in tower.parameters())
            self._vision = convert(tower, self._precision, self._device)
        return self._vision

    def _find_tower(self) -> Vision:
        need = self._checkpoint.vision_ref
        if need is None:
            raise InputError(f"{self._checkpoint.path}: has a vision encoder of its own; vision= does not apply")
        name = need.name if self._vision_name is None else str(self._vision_name)
        if name is None:
            raise InputError(f"{self._checkpoint.path}: {need.reason or 'no vision tower is known for it'}")
        tower = clip_directory(registry.find_vision(name), need.output)
        if need.fingerprint is not None and fingerprint(tower) != need.fingerprint:
            other = f"{self._checkpoint.path}: was taught with other weights than {name} has"
            if self._vision_name is None:
                raise InputError(f"{other}; its captions would mean little. Name the right encoder with vision=")
            log.warning("%s; its captions may mean little", other)
        return tower

    def _find_tokenizer(self) -> TextDecoder:
        if self._tokenizer_name is not None:
            found = load_tokenizer(registry.find_tokenizer(str(self._tokenizer_name)))
        elif self._checkpoint.tokenizer is not None:
            found = load_tokenizer(self._checkpoint.tokenizer)
        else:
            name = self._checkpoint.tokenizer_name
            size = self._gpt2.config.vocab_size
            if size != registry.GPT2_VOCABULARY:
                raise InputError(f"no tokenizer is known for a vocabulary of {size}; name one with tokenizer=")
            found = load_tokenizer(registry.find_tokenizer(name))
        if found.size > self._gpt2.config.vocab_size:
            raise InputError(
                f"the tokenizer has {found.size} tokens, GPT-2 {self._gpt2.config.vocab_size}: not of one model"
            )
        return found


class ContinuousDecoder(Generic[Key]):
    """Captions that join a running batch at any step and leave it when they are finished. Where memory runs out, all
    that are not finished begin anew, fewer side by side."""

    def __init__(self, captioner: Captioner, search: SearchOptions, max_rows: int) -> None:
        self._captioner = captioner
        self._search = search
        self._batch_limit = BatchLimit(max_rows, "captions", captioner._device)
        self._unfinished: dict[Key, Prompt] = {}
        self._batch: ContinuousBatch[Key] | CudaGraphBatch[Key] | None = None

    @property
    def active(self) -> int:
        """Captions not finished, waiting ones included."""
        return len(self._unfinished)

    def add(self, key: Key, embedding: Tensor) -> None:
        """One caption, of one row of what `encode` gives; it joins at the next `step`."""
        with torch.inference_mode():
            (prompt,) = self._captioner._prompts(embedding.unsqueeze(0))
        if self._batch is None:
            self._batch = self._new_batch(prompt, self._batch_limit.max_rows)
        self._batch.add(key, prompt)
        self._unfinished[key] = prompt

    def drop(self, key: Key) -> bool:
        """Forget an unfinished caption; false when there is none of this key."""
        if self._batch is not None:
            self._batch.drop(key)
        return self._unfinished.pop(key, None) is not None

    def step(self) -> list[tuple[Key, Result]]:
        """Decode one more token of every caption; those that are finished with it, in no particular order."""
        done = self._batch_limit.run(self.active, self._step) if self._unfinished else []
        finished = [(row, self._unfinished.pop(row.key)) for row in done]
        return [(row.key, self._captioner._result(row.tokens, row.logprob, prompt)) for row, prompt in finished]

    def tokens(self) -> dict[Key, list[int]]:
        """The tokens so far of every caption that is being decoded."""
        return {} if self._batch is None else {row.key: list(row.tokens) for row in self._batch.rows}

    def _step(self, max_rows: int) -> list[Request[Key]]:
        batch, self._batch = self._batch, None
        if batch is None:
            batch = self._new_batch(next(iter(self._unfinished.values())), max_rows)
            for key, prompt in self._unfinished.items():
                batch.add(key, prompt)
        done = batch.step()
        # Kept only now: after a failure the next step begins anew.
        self._batch = batch
        return done

    def _new_batch(self, prompt: Prompt, max_rows: int) -> ContinuousBatch[Key] | CudaGraphBatch[Key]:
        return self._captioner._new_batch(
            self._search, self._captioner._stop_criteria(self._search, prompt.length), max_rows
        )


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
