"""Full-size captioners in their original file formats: the same greedy tokens as `transformers`, and the speed.

Random weights of the published sizes are saved in the original format and loaded by file name. The captions are
compared token by token with `transformers` on the same weights: with `generate` where it supports the captioner
(ClipCap, VisionEncoderDecoderModel), with the original loop over `GPT2LMHeadModel.forward` for VideoCaptionerWithClip.
Captions are decoded alone and in a batch. Images have the encoder's size, so that no resizing filter differs.

    python -m benchmarks.parity --frames 4 --tokens 20
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    GPT2Config,
    GPT2LMHeadModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
)

from benchmarks.results import RESULTS, write_result
from streamcap import load_captioner
from streamcap.bench.machine import describe_machine
from streamcap.captioner.models.vision import CLIP_MEAN, CLIP_STD

Pixels = npt.NDArray[np.uint8]
SPREAD = 0.06
"""Standard deviation of the random weights: with GPT-2's own 0.02 most captions repeat one token."""
STOP = 13


@dataclass(frozen=True)
class Sizes:
    """A vision transformer and a GPT-2."""

    width: int
    layers: int
    heads: int
    patch: int
    projection: int
    gpt_width: int
    gpt_layers: int
    gpt_heads: int
    vocabulary: int = 50257


BASE = Sizes(768, 12, 12, 32, 512, 768, 12, 12)
LARGE = Sizes(1024, 24, 16, 14, 768, 1024, 24, 16)
CROSS = Sizes(768, 12, 12, 16, 0, 768, 12, 12)
SMALL = Sizes(128, 2, 2, 32, 64, 128, 2, 2, 500)


@dataclass
class Built:
    """A checkpoint on the disk and the reference for it."""

    path: Path
    reference: Callable[[Tensor, int], list[int]]
    """One normalized image (3, H, W), a number of tokens → greedy tokens."""
    parameters: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    vision: Path | None = None


@dataclass(frozen=True)
class Row:
    """What is printed and written for one captioner."""

    captioner: str
    parameters_million: float
    load_s: float
    frames: int
    equal_alone: int
    equal_batched: int
    distinct: int
    ours_ms: float
    """One frame, alone: encode, map, decode; the median."""
    transformers_ms: float


# transformers' models are Any here: its own annotations do not let them call themselves.
def gpt2(sizes: Sizes, **more: Any) -> Any:
    config = GPT2Config(
        vocab_size=sizes.vocabulary,
        n_embd=sizes.gpt_width,
        n_layer=sizes.gpt_layers,
        n_head=sizes.gpt_heads,
        bos_token_id=sizes.vocabulary - 1,
        eos_token_id=sizes.vocabulary - 1,
        initializer_range=SPREAD,
        **more,
    )
    model: Any = GPT2LMHeadModel(config)
    return model.eval()


def clip_vision(sizes: Sizes) -> Any:
    config = CLIPVisionConfig(
        hidden_size=sizes.width,
        intermediate_size=4 * sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        patch_size=sizes.patch,
        projection_dim=sizes.projection,
        initializer_factor=4.0,
    )
    model: Any = CLIPVisionModelWithProjection(config)
    return model.eval()


def old_names(model: Any, prefix: str) -> dict[str, Tensor]:
    """The state dict as transformers of the time wrote it, causal-mask buffers included."""
    state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    for layer in range(model.config.n_layer):
        state[f"{prefix}transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
        state[f"{prefix}transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return state


def greedy(model: Any, prefix: Tensor, stop: int, tokens: int) -> list[int]:
    mask = torch.ones(1, prefix.shape[0], dtype=torch.long)
    out = model.generate(
        inputs_embeds=prefix[None],
        attention_mask=mask,
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=stop,
    )
    row: list[int] = out[0].tolist()
    return row


def build_clipcap(sizes: Sizes, directory: Path) -> Built:
    """ClipCap's MLP, prefix of 10, its tower in a directory beside it."""
    gpt, tower, length = gpt2(sizes), clip_vision(sizes), 10
    outputs = length * sizes.gpt_width
    mapping = nn.Sequential(nn.Linear(sizes.projection, outputs // 2), nn.Tanh(), nn.Linear(outputs // 2, outputs))
    state = old_names(gpt, "gpt.") | {f"clip_project.model.{key}": value for key, value in mapping.state_dict().items()}
    torch.save(state, directory / "clipcap.pt")
    tower.save_pretrained(directory / "clip")

    def reference(image: Tensor, tokens: int) -> list[int]:
        embedding = tower(pixel_values=image[None]).image_embeds
        return greedy(gpt, mapping(embedding).view(length, -1), STOP, tokens)

    count = sum(p.numel() for part in (gpt, tower, mapping) for p in part.parameters())
    return Built(directory / "clipcap.pt", reference, count, CLIP_MEAN, CLIP_STD, directory / "clip")


def build_videocaptioner(sizes: Sizes, directory: Path) -> Built:
    """VideoCaptionerWithClip with 5 mapping layers and a prefix of 4, in a training checkpoint."""
    gpt, tower, length = gpt2(sizes), clip_vision(sizes).vision_model, 4
    width = sizes.gpt_width
    layer = nn.TransformerEncoderLayer(width, 16, 4 * width, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 5, enable_nested_tensor=False).eval()
    mapper = nn.Linear(width, length * width)
    state = old_names(gpt, "td.model.")
    state |= {f"ie.model.{key}": value for key, value in tower.state_dict().items()}
    state |= {f"mp.transformer_encoder.{key}": value for key, value in encoder.state_dict().items()}
    state |= {f"mp.mapper.{key}": value for key, value in mapper.state_dict().items()}
    torch.save({"epoch": 1, "model_state_dict": state}, directory / "model.pt")
    end = sizes.vocabulary - 1

    def reference(image: Tensor, tokens: int) -> list[int]:
        pooled = tower(pixel_values=image[None]).pooler_output
        mapped = mapper(encoder(pooled)).view(length, width)
        start = torch.cat((gpt.transformer.wte.weight[end][None], mapped))
        found: list[int] = []
        while len(found) < tokens and end not in found:
            # As written: with nothing generated yet `inputs` is `start` itself, and += changes it for good.
            inputs = torch.cat((start, gpt.transformer.wte(torch.tensor(found)))) if found else start
            inputs += gpt.transformer.wpe.weight[: len(inputs)]
            found.append(int(gpt(inputs_embeds=inputs[None]).logits[0, -1].argmax()))
        return found

    count = sum(p.numel() for part in (gpt, tower, encoder, mapper) for p in part.parameters())
    return Built(directory / "model.pt", reference, count, CLIP_MEAN, CLIP_STD)


def build_encoder_decoder(sizes: Sizes, directory: Path) -> Built:
    """ViT + GPT-2 with cross-attention, as transformers saves it."""
    vit = ViTConfig(
        hidden_size=sizes.width,
        intermediate_size=4 * sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        patch_size=sizes.patch,
        initializer_range=SPREAD,
    )
    decoder = gpt2(sizes, add_cross_attention=True).config
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vit, decoder)
    end = sizes.vocabulary - 1
    model: Any = VisionEncoderDecoderModel(config=config)
    model.eval()
    for fields in (model.config, model.generation_config):
        fields.decoder_start_token_id, fields.eos_token_id, fields.pad_token_id, fields.bos_token_id = (end,) * 4
    model.save_pretrained(directory / "ved")

    def reference(image: Tensor, tokens: int) -> list[int]:
        row: list[int] = model.generate(image[None], max_new_tokens=tokens, do_sample=False)[0].tolist()
        return row[1:]

    count = sum(p.numel() for p in model.parameters())
    return Built(directory / "ved", reference, count, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def images(count: int, side: int) -> Pixels:
    """Images that differ: waves of another frequency and color each."""
    y, x = np.mgrid[0:side, 0:side]
    waves = [
        [127 + 127 * np.sin(x * (n + 1) / (19 + 9 * c) + y * (c + 1) / (11 + 3 * n)) for c in range(3)]
        for n in range(count)
    ]
    return np.stack([np.stack(channels, -1) for channels in waves]).astype(np.uint8)


@torch.inference_mode()
def measure(name: str, built: Built, frames: int, tokens: int) -> Row:
    """Load, caption alone and in a batch, compare, time one frame."""
    began = time.perf_counter()
    captioner = load_captioner(built.path, device="cpu", precision="fp32", vision=built.vision)
    side = captioner.image_spec.width
    load_s = time.perf_counter() - began
    raw = images(frames, side)
    mean, std = torch.tensor(built.mean), torch.tensor(built.std)
    normalized = ((torch.from_numpy(raw) / 255 - mean) / std).permute(0, 3, 1, 2)
    batched = [result.tokens for result in captioner.caption(list(raw), max_tokens=tokens)]
    captioner.caption([raw[0]], max_tokens=2)
    built.reference(normalized[0], 2)
    alone, expected, ours_s, theirs_s = [], [], [], []
    for image, pixels in zip(raw, normalized, strict=True):
        began = time.perf_counter()
        alone.append(captioner.caption([image], max_tokens=tokens)[0].tokens)
        ours_s.append(time.perf_counter() - began)
        began = time.perf_counter()
        expected.append(built.reference(pixels, tokens))
        theirs_s.append(time.perf_counter() - began)
    return Row(
        captioner=name,
        parameters_million=round(built.parameters / 1e6, 1),
        load_s=round(load_s, 2),
        frames=frames,
        equal_alone=sum(one == other for one, other in zip(alone, expected, strict=True)),
        equal_batched=sum(one == other for one, other in zip(batched, expected, strict=True)),
        distinct=len({tuple(row) for row in expected}),
        ours_ms=round(1000 * float(np.median(ours_s)), 1),
        transformers_ms=round(1000 * float(np.median(theirs_s)), 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the benchmark itself")
    arguments = parser.parse_args()
    cases: list[tuple[str, Callable[[Sizes, Path], Built], Sizes]] = [
        ("ClipCap: ViT-B/32 + GPT-2 124M", build_clipcap, BASE),
        ("VideoCaptionerWithClip L: ViT-L/14 + GPT-2 medium", build_videocaptioner, LARGE),
        ("VisionEncoderDecoder: ViT-B/16 + GPT-2 124M", build_encoder_decoder, CROSS),
    ]
    rows: list[Row] = []
    print(
        f"{'captioner':<52}{'M par.':>8}{'load s':>8}{'alone':>8}{'batch':>8}{'distinct':>10}{'ours':>10}{'theirs':>10}"
    )
    for name, build, sizes in cases:
        torch.manual_seed(1)
        with tempfile.TemporaryDirectory() as directory, torch.no_grad():
            built = build(SMALL if arguments.small else sizes, Path(directory))
            row = measure(name, built, arguments.frames, arguments.tokens)
        del built
        gc.collect()
        rows.append(row)
        print(
            f"{row.captioner:<52}{row.parameters_million:>8.1f}{row.load_s:>8.2f}"
            f"{f'{row.equal_alone}/{row.frames}':>8}{f'{row.equal_batched}/{row.frames}':>8}{row.distinct:>10}"
            f"{row.ours_ms:>7.0f} ms{row.transformers_ms:>7.0f} ms"
        )
    met = all(row.equal_alone == row.equal_batched == row.frames for row in rows)
    print(f"tokens equal transformers': {'all' if met else 'NOT ALL'} (goal: all)")
    if arguments.small:
        return
    result: dict[str, Any] = {
        "question": "fp32 greedy tokens of full-size captioners against transformers' own",
        "tokens": arguments.tokens,
        # Above the number of cores, the times are those of a machine with other work to do: compare within a row.
        "load_average": round(os.getloadavg()[1], 1),
        "rows": [asdict(row) for row in rows],
        "machine": describe_machine(torch.device("cpu")),
    }
    write_result(RESULTS / "parity.json", result)


if __name__ == "__main__":
    main()
