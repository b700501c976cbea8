"""`HubCaptioner`: a model of the hub, run by transformers, in the form of a `Captioner`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamcap.captioner.captioner import Captioner, OnText
from streamcap.captioner.decoding.batch_limit import BatchLimit
from streamcap.captioner.decoding.drafts import Drafts, DraftStatistics
from streamcap.captioner.hub.model import HubModel, load
from streamcap.captioner.options import SearchOptions
from streamcap.captioner.preprocess import fit_images, image_list, to_pixels
from streamcap.captioner.result import Result
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec

if TYPE_CHECKING:
    from streamcap.captioner.preprocess import ImageInput

MAX_TOKENS = 40
"""Default limit of a caption's tokens, unless the model has its own."""
MAX_ROWS = {"cpu": 8, "cuda": 64}
"""Captions decoded in one batch; further captions wait."""

Key = TypeVar("Key", bound=Hashable)


class HubCaptioner(Captioner):
    """Captions images with a model of the hub. Not thread-safe: use one thread at a time.

    The rows that `encode` returns are the images themselves; the model sees them in `decode`. So an image that has not
    changed costs no pass of a large vision encoder: `features` are those of `mini`'s small one. Drafts are ignored.

    Parameters:
        prompt: of every image; None: the model's default (see `HubModel.inputs`).
        load_gate: loads the captioner whose vision encoder gives `features`, when it is first needed.
    """

    def __init__(
        self,
        hub: HubModel,
        *,
        path: Path,
        device: torch.device,
        precision: str,
        load_gate: Callable[[], Captioner],
        prompt: str | None = None,
    ) -> None:
        self._hub = hub
        self._path = path
        self._device = device
        self._precision = precision
        self._prompt = prompt
        self._row_limit = BatchLimit(MAX_ROWS[device.type], "captions", device)
        self._load_gate = load_gate
        self._gate: Captioner | None = None
        self.draft_statistics = DraftStatistics()

    @property
    def image_spec(self) -> ImageSpec:
        return self._hub.image_spec

    @property
    def clip_length(self) -> None:
        return None

    @property
    def max_tokens(self) -> int:
        return int(self._hub.model.generation_config.max_new_tokens or MAX_TOKENS)

    @property
    def grounding(self) -> None:
        return None

    @property
    def info(self) -> dict[str, Any]:
        return {
            "family": self._hub.kind,
            "path": str(self._path),
            "parameters": sum(p.numel() for p in self._hub.model.parameters()),
            "precision": self._precision,
            "device": str(self._device),
            "clip_length": None,
            "max_tokens": self.max_tokens,
            "image": self.image_spec.to_json(),
            "prompt": self._prompt,
        }

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
        """One result for each image, in order; the model's own processor resizes them. See `Captioner.caption`."""
        search = SearchOptions(beam_size, temperature, top_p, seed, max_tokens)
        arrays = [to_pixels(image, f"image {number}") for number, image in enumerate(image_list(images))]
        return self._captions(arrays, [None] * len(arrays), search, None)

    def caption_embeddings(self, *_: object, **__: object) -> NoReturn:
        raise InputError(f"{self._path}: a model of the hub captions images, not embeddings")

    def tags(self, embeddings: Tensor) -> NoReturn:
        raise InputError(f"{self._path}: has no tags")

    def encode(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 (B, H, W, 3) in `image_spec`'s size, as they are."""
        return torch.from_numpy(np.ascontiguousarray(pixels))

    def features(self, embeddings: Tensor) -> npt.NDArray[np.float32]:
        """One unit vector of `mini`'s vision encoder for each row of `encode`'s output, float32 (B, D)."""
        if self._gate is None:
            self._gate = self._load_gate()
        images = [image.numpy() for image in embeddings]
        return self._gate.features(self._gate.encode(fit_images(images, self._gate.image_spec)))

    def decode(
        self,
        embeddings: Tensor,
        search: SearchOptions | None = None,
        *,
        on_text: OnText | None = None,
        drafts: Drafts | None = None,
        prompts: Sequence[str | None] | None = None,
    ) -> list[Result]:
        """One result for each row of `encode`'s output. prompts: one for each row; None: the captioner's."""
        images = [image.numpy() for image in embeddings]
        return self._captions(images, prompts or [None] * len(images), search or SearchOptions(), on_text)

    def decoder(self, search: SearchOptions | None = None, *, max_rows: int | None = None) -> HubDecoder[Any]:  # type: ignore[override]
        return HubDecoder(self, search or SearchOptions())

    def text(self, tokens: list[int]) -> str:
        return self._hub.text(tokens, self._prompt)

    def require_text(self) -> None:
        """The processor has a tokenizer."""

    @torch.inference_mode()
    def _captions(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        prompts: Sequence[str | None],
        search: SearchOptions,
        on_text: OnText | None,
    ) -> list[Result]:
        row_prompts = [prompt or self._prompt for prompt in prompts]
        results: dict[int, Result] = {}
        for prompt in dict.fromkeys(row_prompts):  # one prompt a batch, so that texts need no padding
            rows = [row for row, other in enumerate(row_prompts) if other == prompt]
            selected = [images[row] for row in rows]
            on_row_text = None if on_text is None else _by_row(on_text, rows)
            batches = functools.partial(self._batches, selected, prompt, search, on_row_text)
            captions = self._row_limit.run(len(rows), batches)
            results |= zip(rows, captions, strict=True)
        return [results[row] for row in range(len(images))]

    def _batches(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        prompt: str | None,
        search: SearchOptions,
        on_text: OnText | None,
        max_rows: int,
    ) -> list[Result]:
        results: list[Result] = []
        for start in range(0, len(images), max_rows):
            on_row_text = None if on_text is None else _by_row(on_text, range(start, start + max_rows))
            results += self._generate(images[start : start + max_rows], prompt, search, on_row_text)
        return results

    def _generate(
        self, images: Sequence[npt.NDArray[np.uint8]], prompt: str | None, search: SearchOptions, on_text: OnText | None
    ) -> list[Result]:
        from transformers import LogitsProcessorList, StoppingCriteriaList

        beams = search.beam_size > 1
        steps = _Steps(self._hub.stops, None if beams else on_text)
        options: dict[str, Any] = {"do_sample": False}
        if search.temperature > 0:
            options = {"do_sample": True, "temperature": search.temperature, "top_p": search.top_p, "top_k": 0}
        if not beams:
            options |= {
                "logits_processor": LogitsProcessorList([steps.keep_scores]),
                "stopping_criteria": StoppingCriteriaList([steps.keep_tokens]),
            }
        inputs = self._hub.inputs(images, prompt)
        with _seeded(search, self._device):
            out = self._hub.model.generate(
                **inputs,
                **options,
                num_beams=search.beam_size,
                max_new_tokens=search.max_tokens or self.max_tokens,
                return_dict_in_generate=True,
                output_scores=beams,
            )
        if beams:
            return self._beam_results(out, prompt)
        return [
            Result(self._hub.text(tokens, prompt), tokens, mean, None, len(tokens)) for tokens, mean in steps.rows()
        ]

    def _beam_results(self, out: Any, prompt: str | None) -> list[Result]:
        scores = self._hub.model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
        results = []
        for sequence, row in zip(out.sequences.tolist(), scores.tolist(), strict=True):
            tokens = _until_stop(sequence[-len(row) :], self._hub.stops)
            mean = sum(row[: len(tokens)]) / max(1, len(tokens))
            results.append(Result(self._hub.text(tokens, prompt), tokens, mean, None, len(tokens)))
        return results


def load_hub_captioner(
    directory: Path,
    kind: str,
    *,
    device: str,
    precision: str,
    prompt: str | None,
    load_gate: Callable[[], Captioner],
) -> HubCaptioner:
    """The captioner of the model in `directory`, whose `model_type` is `kind`. Parameters as of `HubCaptioner`.

    Raises InputError.
    """
    hub, target, resolved = load(directory, kind, device=device, precision=precision)
    return HubCaptioner(hub, path=directory, device=target, precision=resolved, load_gate=load_gate, prompt=prompt)


class HubDecoder(Generic[Key]):
    """The form of a `ContinuousDecoder`; captions are decoded as one batch at the next `step`."""

    def __init__(self, captioner: HubCaptioner, search: SearchOptions) -> None:
        self._captioner = captioner
        self._search = search
        self._waiting: dict[Key, Tensor] = {}

    @property
    def active(self) -> int:
        """Unfinished captions."""
        return len(self._waiting)

    def add(self, key: Key, embedding: Tensor) -> None:
        """Queue one caption, given one row of `encode`'s output."""
        self._waiting[key] = embedding

    def drop(self, key: Key) -> bool:
        """Drop a caption that waits; False if there is none with this key."""
        return self._waiting.pop(key, None) is not None

    def step(self) -> list[tuple[Key, Result]]:
        """Decode all captions that wait."""
        waiting, self._waiting = self._waiting, {}
        results = self._captioner.decode(torch.stack(list(waiting.values())), self._search) if waiting else []
        return list(zip(waiting, results, strict=True))


class _Steps:
    """The tokens and log-probabilities of a batch while it is generated."""

    def __init__(self, stops: frozenset[int], on_text: OnText | None) -> None:
        self._stops = stops
        self._on_text = on_text
        self._scores: Tensor | None = None
        self._tokens: list[list[int]] = []
        self._logprobs: list[float] = []

    def keep_scores(self, _: Tensor, scores: Tensor) -> Tensor:
        """A logits processor that changes nothing: (B, V) before the next token is chosen."""
        self._scores = scores
        return scores

    def keep_tokens(self, sequences: Tensor, *_: object, **__: object) -> Tensor:
        """A stopping criterion that stops nothing: (B, S) after the next token was chosen."""
        assert self._scores is not None  # noqa: S101 - `generate` calls `keep_scores` before
        chosen = sequences[:, -1:]
        logprobs = self._scores.float().log_softmax(dim=-1).gather(1, chosen)[:, 0].tolist()
        if not self._tokens:
            self._tokens = [[] for _ in range(len(chosen))]
            self._logprobs = [0.0] * len(chosen)
        for row, (token, logprob) in enumerate(zip(chosen[:, 0].tolist(), logprobs, strict=True)):
            tokens = self._tokens[row]
            if tokens and tokens[-1] in self._stops:
                continue  # padding
            tokens.append(token)
            self._logprobs[row] += logprob
            if self._on_text is not None and token not in self._stops:
                self._on_text(row, list(tokens))
        return torch.zeros(len(sequences), dtype=torch.bool, device=sequences.device)

    def rows(self) -> Iterator[tuple[list[int], float]]:
        """The tokens of each row, and their mean log-probability."""
        for tokens, total in zip(self._tokens, self._logprobs, strict=True):
            yield tokens, total / len(tokens)


def _until_stop(tokens: list[int], stops: frozenset[int]) -> list[int]:
    end = next((index for index, token in enumerate(tokens) if token in stops), len(tokens) - 1)
    return tokens[: end + 1]


def _by_row(on_text: OnText, rows: Sequence[int]) -> OnText:
    return lambda row, tokens: on_text(rows[row], tokens)


@contextlib.contextmanager
def _seeded(search: SearchOptions, device: torch.device) -> Iterator[None]:
    """`generate` draws from torch's global generators: seed them, and restore them afterwards."""
    if search.temperature == 0 or search.seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(search.seed)
        yield
