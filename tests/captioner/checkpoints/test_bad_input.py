"""Whatever is handed in wrong gives one clear line."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from streamcap import load_captioner
from streamcap.errors import InputError, StreamcapError

GOLDEN = Path(__file__).parents[1] / "golden"


class Code:
    """A pickle of this would run a command where it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/streamcap-must-not-exist",)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return dict(torch.load(GOLDEN / "clipcap_mlp.pt", weights_only=True))


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        load_captioner(path, device="cpu")
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    return message


def test_pickle_with_code_is_refused(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    new, old, bare = tmp_path / "new.pt", tmp_path / "old.pt", tmp_path / "bare.pt"
    torch.save({**weights, "x": Code()}, new)
    torch.save({**weights, "x": Code()}, old, _use_new_zipfile_serialization=False)
    bare.write_bytes(pickle.dumps(Code()))
    for path in (new, old, bare):
        assert "refused: a pickle that contains code (posix.mkdir)" in refusal(path)
    assert not Path("/tmp/streamcap-must-not-exist").exists()
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    assert "torch.nn.modules.linear.Linear" in refusal(tmp_path / "module.pt")


@pytest.mark.parametrize("kept", [3, 100, 20_000])
def test_truncated_file_is_refused(tmp_path: Path, weights: dict[str, torch.Tensor], kept: int) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes((GOLDEN / "clipcap_mlp.pt").read_bytes()[:kept])
    assert "not a PyTorch checkpoint, or a" in refusal(path)
    whole = tmp_path / "whole.safetensors"
    save_file({key: value.clone() for key, value in weights.items()}, whole)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:kept])
    assert "not a safetensors file, or a truncated one" in refusal(cut)


def test_archive_with_a_checkpoint_in_it_is_refused(tmp_path: Path) -> None:
    """As a browser leaves it, also under the name of a checkpoint, and an archive in another one."""
    paths = [tmp_path / name for name in ("a.zip", "b.pt", "c.zip", "d.tar.gz")]
    for path in paths[:2]:
        with zipfile.ZipFile(path, "w") as archive:
            archive.write(GOLDEN / "clipcap_mlp.pt", "coco_weights.pt")
    with zipfile.ZipFile(paths[2], "w") as archive:
        archive.write(paths[0], "a.zip")
    with tarfile.open(paths[3], "w:gz") as tar:
        tar.add(GOLDEN / "clipcap_mlp.pt", "coco_weights.pt")
    assert [refusal(path).partition(": ")[2] for path in paths] == [
        "a ZIP archive of other files ('coco_weights.pt'); unpack it first",
        "a ZIP archive of other files ('coco_weights.pt'); unpack it first",
        "a ZIP archive of other files ('a.zip'); unpack it first",
        "gzip data, not the weights; unpack it first",
    ]


def test_foreign_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not found")
    assert "not a PyTorch checkpoint" in refusal(tmp_path / "text.pt")
    (tmp_path / "values.pt").write_bytes(pickle.dumps({"a": 1}, protocol=4))
    assert "not a PyTorch checkpoint" in refusal(tmp_path / "values.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "contains no state dict" in refusal(tmp_path / "list.pt")
    torch.save({"lr": 0.1}, tmp_path / "numbers.pt")
    assert "'lr' is a float, not a tensor" in refusal(tmp_path / "numbers.pt")
    save_file({"model.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert "not a captioner of a known family" in refusal(tmp_path / "other.safetensors")
    (tmp_path / "empty").mkdir()
    assert "contains no checkpoint" in refusal(tmp_path / "empty")
    (tmp_path / "two").mkdir()
    for name in ("a.pt", "b.pt"):
        torch.save({}, tmp_path / "two" / name)
    assert "contains 2 checkpoints (a.pt, b.pt); name one" in refusal(tmp_path / "two")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("clip_project.model.2.bias", None, "clip_project.model.2.bias is missing"),
        ("gpt.transformer.wte.weight", None, "gpt.transformer.wte.weight is missing"),
        ("gpt.transformer.h.1.attn.c_attn.weight", None, "gpt.transformer.h.1.attn.c_attn.weight is missing"),
        ("gpt.transformer.extra", torch.zeros(1), "unexpected key gpt.transformer.extra"),
        ("clip_project.extra", torch.zeros(1), "unexpected key clip_project.extra"),
        ("other.extra", torch.zeros(1), "unexpected key other.extra"),
        ("gpt.transformer.ln_f.weight", torch.zeros(65), r"ln_f.weight has shape (65,), expected (64,)"),
        ("gpt.transformer.wte.weight", torch.zeros(5), "wte.weight has shape (5,), expected two sizes"),
        ("gpt.transformer.ln_f.weight", torch.zeros(64, dtype=torch.int32), "has dtype torch.int32"),
        ("clip_project.model.2.weight", torch.zeros(300, 128), "they are from different models"),
    ],
)
def test_state_dict_keys_and_shapes_are_checked(
    tmp_path: Path, weights: dict[str, torch.Tensor], key: str, value: torch.Tensor | None, message: str
) -> None:
    if value is None:
        del weights[key]
    else:
        weights[key] = value
    torch.save(weights, tmp_path / "model.pt")
    assert message in refusal(tmp_path / "model.pt")


def test_mapping_width_mismatch(tmp_path: Path) -> None:
    weights = torch.load(GOLDEN / "clipcap_transformer.pt", weights_only=True)
    torch.save(weights | {"clip_project.prefix_const": torch.zeros(4, 128)}, tmp_path / "model.pt")
    assert "GPT-2 is 64 wide, the mapping's output 128" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpt2": {"n_head": 5}}, "width 64 does not divide into 5 heads"),
        ({"gpt2": {"n_embd": 128}}, "has n_embd 128, the weights have 64"),
        ({"gpt2": {"eos_token_id": 500}}, "eos_token_id 500 is not in the vocabulary of 320"),
        ({"gpt2": 3}, "gpt2 is a configuration"),
        ({"stop_token_id": 999}, "stop token 999 is not in the vocabulary"),
        ({"max_tokens": 0}, "max_tokens is a whole number of at least 1"),
        ({"entry_length": "ten"}, "entry_length is a whole number"),
        ({"cross": "yes"}, "cross is true or false"),
    ],
)
def test_invalid_checkpoint_json(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes((GOLDEN / "clipcap_mlp.pt").read_bytes())
    (tmp_path / "model.json").write_text(json.dumps(settings))
    with pytest.raises(InputError) as error:
        load_captioner(path, device="cpu")
    assert message in str(error.value)


def test_resnet_prefix_accepts_embeddings_only(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(0)
    weights["clip_project.model.0.weight"] = torch.randn(128, 640) / 25
    torch.save(weights, tmp_path / "rn.pt")
    captioner = load_captioner(tmp_path / "rn.pt", device="cpu")
    assert captioner.caption_embeddings(torch.randn(1, 640))[0].tokens
    with pytest.raises(InputError, match=r"ResNet RN50x4.*not supported; only caption_embeddings works"):
        captioner.caption([np.zeros((9, 9, 3), np.uint8)])


@pytest.mark.parametrize("key", ["clip_project.model.0.weight", "gpt.transformer.h.0.attn.c_attn.weight"])
@pytest.mark.parametrize("number", ["nan", "-inf"])
def test_non_finite_weights_are_refused(
    tmp_path: Path, weights: dict[str, torch.Tensor], key: str, number: str
) -> None:
    """One of them among thousands gives captions that look like any others."""
    weights[key] = weights[key].clone()
    weights[key].view(-1)[7] = float(number)
    torch.save(weights, tmp_path / "damaged.pt")
    assert f"{key} contains NaN or infinity; the checkpoint is damaged" in refusal(tmp_path / "damaged.pt")


@pytest.mark.parametrize("beams", [1, 3])
def test_overflow_in_decoding_is_reported(tmp_path: Path, weights: dict[str, torch.Tensor], beams: int) -> None:
    weights["gpt.transformer.ln_f.weight"] = torch.full_like(weights["gpt.transformer.ln_f.weight"], 3e38)
    torch.save(weights, tmp_path / "large.pt")
    captioner = load_captioner(tmp_path / "large.pt", device="cpu", precision="fp32")
    with pytest.raises(StreamcapError, match=r"decoding in fp32 produced NaN or infinity; the checkpoint may"):
        captioner.caption_embeddings(torch.randn(2, 32), beams)


@pytest.mark.parametrize(
    ("shape", "message"), [((32,), r"\(B, 32\)"), ((1, 31), r"\(1, 31\)"), ((1, 2, 32), r"\(1, 2, 32\)")]
)
def test_embedding_shape_and_values_are_checked(shape: tuple[int, ...], message: str) -> None:
    captioner = load_captioner(GOLDEN / "clipcap_mlp.pt", device="cpu")
    with pytest.raises(InputError, match=message):
        captioner.caption_embeddings(torch.zeros(shape))
    with pytest.raises(InputError, match="not finite"):
        captioner.caption_embeddings(torch.full((1, 32), float("nan")))


def test_clip_length_comes_from_json() -> None:
    captioner = load_captioner(GOLDEN / "nyu_video_cross.pt", device="cpu")
    assert captioner.clip_length == 28
    with pytest.raises(InputError, match=r"shape \(1, 5, 32\), this model takes \(B, 28, 32\)"):
        captioner.caption_embeddings(torch.zeros(1, 5, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device 'gpu' is unknown"),
        ({"device": "cuda:77"}, "device 'cuda:77' was not found"),
        ({"precision": "fp3"}, "precision 'fp3' is unknown; use auto or one of"),
    ],
)
def test_unknown_device_or_precision(options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_captioner(GOLDEN / "clipcap_mlp.pt", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size is between 1 and 64"),
        ({"beam_size": 2.5}, "beam_size is a whole number"),
        ({"max_tokens": 0}, "max_tokens is a whole number of at least 1"),
        ({"max_tokens": 1000}, r"more than GPT-2 has positions for \(125\)"),
        ({"temperature": -1.0}, "temperature is 0"),
        ({"temperature": 1.0, "beam_size": 2}, "beam search does not sample"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p is above 0"),
    ],
)
def test_invalid_decoding_options(options: dict[str, Any], message: str) -> None:
    captioner = load_captioner(GOLDEN / "clipcap_mlp.pt", device="cpu")
    with pytest.raises(InputError, match=message):
        captioner.caption_embeddings(torch.zeros(1, 32), **options)
