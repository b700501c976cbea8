"""Checkpoints as trainers save them: wrapped, prefixed, sharded, with a tokenizer of their own."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel

from streamcap import load_captioner
from streamcap.captioner.checkpoints import open_checkpoint
from streamcap.captioner.checkpoints.convert import convert_checkpoint
from streamcap.captioner.checkpoints.towers import weights_file
from streamcap.captioner.decoding.tokenizer import TextDecoder, load_tokenizer
from streamcap.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = ["clipcap_mlp", "nyu_video_transformer", "videocaptioner_net"]
Weights = dict[str, torch.Tensor]


def _golden(name: str) -> tuple[Weights, dict[str, Any]]:
    weights: Weights = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    return weights, json.loads((GOLDEN / f"{name}.json").read_text())


def _longest(content: dict[str, Any]) -> dict[str, Any]:
    case: dict[str, Any] = max(content["cases"], key=lambda case: len(case["greedy"]))
    return case


def _greedy(path: Path, content: dict[str, Any]) -> tuple[list[list[int]], list[list[int]]]:
    """The captions of a checkpoint, and those of the original code."""
    captioner = load_captioner(path, device="cpu", precision="fp32")
    cases = content["cases"]
    given = [torch.tensor(case.get("image_embedding") or case["pooler_output"]) for case in cases]
    results = captioner.caption_embeddings(torch.stack(given))
    return [result.tokens for result in results], [case.get("greedy", case.get("tokens")) for case in cases]


def _prefixed(prefix: str) -> Callable[[Weights], Any]:
    return lambda weights: {f"{prefix}{key}": value for key, value in weights.items()}


WRAPPERS: dict[str, Callable[[Weights], Any]] = {
    "compiled": _prefixed("_orig_mod."),
    "data parallel": _prefixed("module."),
    "compiled and parallel": _prefixed("module._orig_mod."),
    "attribute": _prefixed("model."),
    "compiled inside": lambda w: {k.replace("gpt.", "gpt._orig_mod.", 1): v for k, v in w.items()},
    "model": lambda w: {"model": w, "epoch": 3, "optimizer": {"lr": 0.1}},
    "net": lambda w: {"net": w},
    "lightning": lambda w: {
        "state_dict": _prefixed("model.")(w), "epoch": 3, "global_step": 10, "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 1e-4}, "callbacks": {}, "optimizer_states": [], "loops": {},
    },
    "lightning, compiled": lambda w: {"state_dict": _prefixed("model._orig_mod.")(w)},
    "nested": lambda w: {"model": {"state_dict": _prefixed("net.module.")(w)}},
    "another key": lambda w: {"generator": w, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "epoch": 1},
    "average alone": lambda w: {"ema": w, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
    "average beside": lambda w: {"params": w, "params_ema": {k: v * 0 for k, v in w.items()}},
    "average inside": lambda w: {
        "state_dict": _prefixed("model.")(w) | _prefixed("ema_model.")({k: v * 0 for k, v in w.items()})
    },
    "loss inside": lambda w: {"state_dict": _prefixed("captioner.")(w) | {"loss.weight": torch.zeros(3)}},
    "options": lambda w: {
        "model": w, "args": argparse.Namespace(lr=0.1, out=Path("runs")), "best": np.float64(1.5),
        "history": np.arange(3.0), "windows": PureWindowsPath("C:/runs"),
    },
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_wrapped_checkpoint_gives_the_same_captions(tmp_path: Path, family: str, wrapper: str) -> None:
    weights, content = _golden(family)
    torch.save(WRAPPERS[wrapper](weights), tmp_path / "last.ckpt")
    (tmp_path / "last.json").write_text(json.dumps(content))
    got, expected = _greedy(tmp_path / "last.ckpt", content)
    assert got == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    weights, content = _golden("clipcap_mlp")
    # Untied, with the buffers of old files.
    weights["gpt.lm_head.weight"] = weights["gpt.transformer.wte.weight"].clone() + 0.5
    weights["gpt.transformer.h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
    weights["gpt.transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    torch.save({key: value.to(dtype) for key, value in weights.items()}, tmp_path / "low.pt")
    (tmp_path / "low.json").write_text(json.dumps(content))
    loaded = open_checkpoint(tmp_path / "low.pt").gpt2.state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    torch.save({key: value.to(dtype).float() for key, value in weights.items()}, tmp_path / "full.pt")
    (tmp_path / "full.json").write_text(json.dumps(content))
    for key, value in open_checkpoint(tmp_path / "full.pt").gpt2.state_dict().items():
        torch.testing.assert_close(loaded[key], value, rtol=0, atol=0)


def test_two_captioners_in_one_file_are_named(tmp_path: Path) -> None:
    weights, _ = _golden("clipcap_mlp")
    torch.save(_prefixed("teacher.")(weights) | _prefixed("student.")(weights), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"holds 2 captioners \(student\., teacher\.\); save one of them alone"):
        open_checkpoint(tmp_path / "model.pt")


def test_trainer_directory_takes_the_model(tmp_path: Path) -> None:
    weights, content = _golden("clipcap_mlp")
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "pytorch_model.json").write_text(json.dumps(content))
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth"):
        torch.save({"step": 1}, tmp_path / name)
    assert open_checkpoint(tmp_path).path == tmp_path / "pytorch_model.bin"


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "a Git LFS pointer, not the weights"),
        (b"\n<!DOCTYPE html><html><body>Download anyway?", "a web page, not the weights; download the file itself"),
        (b"", "the file is empty"),
    ],
    ids=["pointer", "page", "empty"],
)
def test_failed_download_is_named(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        open_checkpoint(tmp_path / name)


def test_wrapped_keys_that_collide_are_named(tmp_path: Path) -> None:
    weights, _ = _golden("clipcap_mlp")
    torch.save(weights | _prefixed("module.")(weights), tmp_path / "model.pt")
    with pytest.raises(InputError, match="two keys differ only in the prefixes"):
        open_checkpoint(tmp_path / "model.pt")


def _shard(directory: Path, weights: Weights, stem: str, suffix: str) -> Path:
    """As transformers' save_pretrained splits it."""
    directory.mkdir(exist_ok=True)
    weight_map = {}
    for number in range(3):
        name = f"{stem}-{number + 1:05d}-of-00003{suffix}"
        part = {key: weights[key].clone() for key in list(weights)[number::3]}
        save_file(part, directory / name) if suffix == ".safetensors" else torch.save(part, directory / name)
        weight_map |= dict.fromkeys(part, name)
    index = directory / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


SHARDS = [("model", ".safetensors"), ("pytorch_model", ".bin")]


@pytest.mark.parametrize(("stem", "suffix"), SHARDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_sharded_checkpoint(tmp_path: Path, family: str, stem: str, suffix: str) -> None:
    weights, content = _golden(family)
    index = _shard(tmp_path / "saved", _prefixed("module.")(weights), stem, suffix)
    (tmp_path / "saved" / f"{stem}.json").write_text(json.dumps(content))
    for path in (tmp_path / "saved", index, index.with_name(f"{stem}-00002-of-00003{suffix}")):
        got, expected = _greedy(path, content)
        assert got == expected


@pytest.mark.parametrize(("stem", "suffix"), SHARDS)
def test_sharded_native_checkpoint(tmp_path: Path, stem: str, suffix: str) -> None:
    mini = Path(open_checkpoint.__code__.co_filename).parents[1] / "mini"
    whole = load_file(mini / "model.safetensors")
    index = _shard(tmp_path / "mini", whole, stem, suffix)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "mini" / name).write_bytes((mini / name).read_bytes())
    assert weights_file(tmp_path / "mini") == index
    loaded = open_checkpoint(tmp_path / "mini").gpt2.state_dict()
    for key, value in open_checkpoint(mini).gpt2.state_dict().items():
        torch.testing.assert_close(loaded[key], value, rtol=0, atol=0)
    convert_checkpoint(tmp_path / "mini", tmp_path / "one")
    assert load_file(tmp_path / "one" / "model.safetensors").keys() == whole.keys()


def test_missing_shard_is_named(tmp_path: Path) -> None:
    index = _shard(tmp_path / "saved", _golden("clipcap_mlp")[0], "model", ".safetensors")
    (tmp_path / "saved" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00003\.safetensors of 3 shards is missing"):
        open_checkpoint(tmp_path / "saved")
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(InputError, match="which is not a file name"):
        open_checkpoint(index)
    index.write_text("{}")
    with pytest.raises(InputError, match="weight_map is missing"):
        open_checkpoint(index)


def _words(period: int, size: int = 320, **more: int) -> Tokenizer:
    """A word for every token, `.` being `period`."""
    vocabulary = {f"w{token}": token for token in range(size)}
    for word, token in {".": period, **more}.items():
        del vocabulary[f"w{token}"]
        vocabulary[word] = token
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.mark.parametrize("where", ["option", "directory", "json"])
def test_stop_token_of_another_tokenizer(tmp_path: Path, where: str) -> None:
    weights, content = _golden("clipcap_mlp")
    case = _longest(content)
    expected = case["greedy"]
    period = expected[2]
    assert period != 13
    torch.save(weights, tmp_path / "model.pt")
    tokens = tmp_path if where == "directory" else tmp_path / "german"
    tokens.mkdir(exist_ok=True)
    _words(period).save(str(tokens / "tokenizer.json"))
    if where == "json":
        (tmp_path / "model.json").write_text(json.dumps({"tokenizer": "german"}))
    model = tmp_path if where == "directory" else tmp_path / "model.pt"
    captioner = load_captioner(model, device="cpu", tokenizer=tokens if where == "option" else None)
    (result,) = captioner.caption_embeddings(torch.tensor(case["image_embedding"])[None])
    assert result.tokens == expected[: expected.index(period) + 1]
    assert result.text == " ".join(f"w{token}" for token in result.tokens[:-1]) + " ."


def test_json_stop_token_goes_before_the_tokenizer(tmp_path: Path) -> None:
    weights, content = _golden("clipcap_mlp")
    torch.save(weights, tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(json.dumps({"stop_token_id": _longest(content)["greedy"][1]}))
    _words(_longest(content)["greedy"][5]).save(str(tmp_path / "tokenizer.json"))
    captioner = load_captioner(tmp_path, device="cpu")
    (result,) = captioner.caption_embeddings(torch.tensor(_longest(content)["image_embedding"])[None])
    assert 1 <= len(result.tokens) <= 2


def test_tokenizer_without_full_stop_says_what_to_do(tmp_path: Path) -> None:
    weights, content = _golden("clipcap_mlp")
    torch.save(weights, tmp_path / "model.pt")
    tokenizer = Tokenizer(WordLevel({f"w{token}": token for token in range(320)}, unk_token="w0"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    captioner = load_captioner(tmp_path, device="cpu")
    with pytest.raises(InputError, match="set stop_token_id in the json"):
        captioner.caption_embeddings(torch.tensor(_longest(content)["image_embedding"])[None])


@pytest.mark.parametrize("file", ["tokenizer.json", "words.json"])
def test_converted_checkpoint_keeps_its_stop_token(tmp_path: Path, file: str) -> None:
    weights, content = _golden("clipcap_mlp")
    case = _longest(content)
    model = tmp_path / "model"
    model.mkdir()
    torch.save(weights, model / "model.pt")
    period = case["greedy"].index(case["greedy"][2])
    _words(case["greedy"][2]).save(str(model / file))
    if file != "tokenizer.json":
        (model / "model.json").write_text(json.dumps({"tokenizer": file}))
    convert_checkpoint(model / "model.pt" if file != "tokenizer.json" else model, tmp_path / "converted")
    captioner = load_captioner(tmp_path / "converted", device="cpu")
    assert (
        captioner.caption_embeddings(torch.tensor(case["image_embedding"])[None])[0].tokens
        == case["greedy"][: period + 1]
    )


def test_videocaptioner_uses_bos_and_eos_of_tokenizer(tmp_path: Path) -> None:
    weights, content = _golden("videocaptioner_net")
    case = content["cases"][0]
    torch.save(weights, tmp_path / "model.pt")
    end, begin = 7, 319
    _words(5, **{"</s>": end, "<s>": begin}).save(str(tmp_path / "tokenizer.json"))
    captioner = load_captioner(tmp_path, device="cpu")
    (result,) = captioner.caption_embeddings(torch.tensor(case["pooler_output"])[None])
    expected = case.get("greedy", case.get("tokens"))
    # The same beginning as in OpenAI's layout here, another end.
    assert result.tokens[: len(expected) - 1] == expected[:-1][: len(result.tokens)]
    assert captioner._text.stop_tokens() == {end}


def test_periods_of_byte_level_tokenizer() -> None:
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa"]
    tokenizer = Tokenizer(BPE({piece: number for number, piece in enumerate(pieces)}, [("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    assert TextDecoder(tokenizer).periods() == {pieces.index(".")} == {13}


@pytest.mark.parametrize("period", ["।", "。", "．", "｡", "۔", "។", "።", "։", "။", "."])
def test_periods_of_other_scripts(period: str) -> None:
    assert TextDecoder(Tokenizer(WordLevel({"w0": 0, period: 1, "x": 2}, unk_token="w0"))).periods() == {1}


def test_tokenizer_of_sentencepiece_is_named(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(b"x")
    with pytest.raises(InputError, match=r"SentencePiece's; save it as tokenizer\.json with"):
        load_tokenizer(tmp_path)


def test_word_pieces_of_a_chinese_model(tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "一", "只", "狗", "。", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    decoder = load_tokenizer(tmp_path)
    assert decoder.periods() == {8, 9}
    assert decoder.ends() == {3}
    assert decoder.begin() == 2
    assert decoder.text([5, 6, 7, 8, 3], frozenset({3})) == "一只狗。"
