"""Feature caches: features match captions, stopped runs resume, other caches are never overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from streamcap.captioner.models.vision import Vision
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec
from streamcap.training.data import feature_cache as caches
from streamcap.training.data.clips import read_image
from streamcap.training.data.corpus import MediaFolder, Problem, read_flickr
from streamcap.training.data.dataset import build_cache
from streamcap.training.data.encoders import FeatureEncoder
from streamcap.training.data.feature_cache import FeatureCache

SPEC = ImageSpec(8, 8, "squash", "bilinear")


class Means(torch.nn.Module):
    """The mean color: (B, 3, H, W) → (B, 3), times a weight."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * self.weight


def encoder(weight: float = 1.0) -> FeatureEncoder:
    return FeatureEncoder("means", Vision(Means(weight), SPEC, 3), "projected", torch.device("cpu"))


@pytest.fixture
def images(tmp_path: Path):
    """Five images, each of one shade of gray; one is broken."""
    folder = tmp_path / "images"
    folder.mkdir()
    lines = ["image_name| comment_number| comment"]
    for i in range(5):
        Image.new("RGB", (20, 10), (40 * i,) * 3).save(folder / f"{i}.png")
        lines.append(f"{i}.png| 0| image number {i}")
    (folder / "2.png").write_bytes(b"not an image")
    (tmp_path / "results.csv").write_text("\n".join(lines))
    (tmp_path / "train.txt").write_text("0.png\n1.png\n2.png\n3.png\n4.png\n")
    media = MediaFolder(folder)
    return read_flickr(tmp_path / "results.csv", media, {"train": tmp_path / "train.txt"}), media


def test_features_align_with_captions(images, tmp_path: Path) -> None:
    corpus, media = images
    manifest = build_cache(tmp_path / "cache", corpus, media, encoder())
    assert manifest["counts"] == {"train": 4}
    assert manifest["skipped"] == {"broken": 1}
    cache = FeatureCache(tmp_path / "cache")
    examples = cache.examples("train")
    assert [(e.name, e.captions) for e in examples] == [(f"{i}.png", (f"image number {i}",)) for i in (0, 1, 3, 4)]
    expected = [[(40 * i / 255 - 0.5) / 0.5] * 3 for i in (4, 0)]
    assert np.allclose(cache.features("train", [examples[3], examples[0]]), expected, atol=2e-3)


def test_stopped_run_resumes_at_missing_shard(images, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(caches, "SHARD_ITEMS", 2)
    corpus, media = images
    seen: list[int] = []

    def stop_after_the_first(count: int) -> None:
        seen.append(count)
        if sum(seen) > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cache(tmp_path / "cache", corpus, media, encoder(), advance=stop_after_the_first)
    with pytest.raises(InputError, match="incomplete"):
        FeatureCache(tmp_path / "cache")
    first = (tmp_path / "cache" / "train-00000.safetensors").stat().st_mtime_ns
    done: list[int] = []
    build_cache(tmp_path / "cache", corpus, media, encoder(), advance=done.append)
    assert done[0] == 2
    assert sum(done) == 5
    assert (tmp_path / "cache" / "train-00000.safetensors").stat().st_mtime_ns == first
    assert len(FeatureCache(tmp_path / "cache").examples("train")) == 4
    assert load_file(tmp_path / "cache" / "train-00002.safetensors")["features"].shape == (1, 3)


def test_other_encoder_keeps_cache(images, tmp_path: Path) -> None:
    corpus, media = images
    build_cache(tmp_path / "cache", corpus, media, encoder())
    before = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    with pytest.raises(InputError, match="different encoder"):
        build_cache(tmp_path / "cache", corpus, media, encoder(2.0))
    with pytest.raises(InputError, match="not a feature cache"):
        build_cache(tmp_path / "images", corpus, media, encoder())
    assert json.loads((tmp_path / "cache" / "manifest.json").read_text()) == before


def test_other_split_of_same_size_keeps_cache(images, tmp_path: Path) -> None:
    _, media = images
    for split, listed in (("one", "0.png\n1.png\n"), ("other", "3.png\n4.png\n")):
        (tmp_path / split).write_text(listed)
    one, other = (read_flickr(tmp_path / "results.csv", media, {"train": tmp_path / s}) for s in ("one", "other"))
    build_cache(tmp_path / "cache", one, media, encoder())
    before = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    with pytest.raises(InputError, match=r"other images or clips in the split train; .* nothing"):
        build_cache(tmp_path / "cache", other, media, encoder())
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()} == before


def test_repaired_image_is_added(images, tmp_path: Path) -> None:
    corpus, media = images
    problems: list[Problem] = []
    build_cache(tmp_path / "cache", corpus, media, encoder(), on_problem=problems.append)
    assert [(one.name, one.why, one.detail) for one in problems] == [
        ("2.png", "broken", "not an image that can be read")
    ]
    shard = tmp_path / "cache" / "train-00000.safetensors"
    written_at = shard.stat().st_mtime_ns
    assert build_cache(tmp_path / "cache", corpus, media, encoder())["skipped"] == {"broken": 1}
    assert shard.stat().st_mtime_ns == written_at
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "2.png")
    manifest = build_cache(tmp_path / "cache", corpus, media, encoder())
    assert manifest["counts"] == {"train": 5} and manifest["skipped"] == {}
    assert len(FeatureCache(tmp_path / "cache").examples("train")) == 5


def test_truncated_png_is_listed(images, tmp_path: Path) -> None:
    corpus, media = images
    path = tmp_path / "images" / "4.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)).save(path)
    content = path.read_bytes()
    second = content.index(b"IDAT", content.index(b"IDAT") + 4)
    path.write_bytes(content[:second] + b"\0\1\2\3" + content[second + 4 :])
    with pytest.raises(SyntaxError), Image.open(path) as image:
        image.load()
    assert build_cache(tmp_path / "cache", corpus, media, encoder())["skipped"] == {"broken": 2}


def test_exif_alpha_and_gray16_are_applied(tmp_path: Path) -> None:
    """As in `streamcap caption`: rotated by EXIF, transparency over white, 16-bit gray scaled."""
    spec = ImageSpec(4, 4, "squash", "area")
    halves = Image.fromarray(np.repeat(np.array([[0], [255]], np.uint8), 4, 0).repeat(8, 1))
    exif = Image.Exif()
    exif[0x0112] = 3
    halves.save(tmp_path / "turned.png", exif=exif)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((8, 8), 0x4000, np.uint16)).save(tmp_path / "grey.png")
    turned, clear, gray = (
        read_image((tmp_path / f"{name}.png").read_bytes(), spec) for name in ("turned", "clear", "grey")
    )
    assert turned[0, 0, 0] == 255 and turned[3, 0, 0] == 0
    assert (clear == 255).all()
    assert (gray == 0x40).all()


def test_invalid_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        FeatureCache(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(InputError, match="must hold a JSON object"):
        FeatureCache(tmp_path)
    (tmp_path / "manifest.json").write_text('{"version": 0}')
    with pytest.raises(InputError, match="not a feature cache manifest"):
        FeatureCache(tmp_path)


def test_damaged_captions_are_refused(images, tmp_path: Path) -> None:
    corpus, media = images
    build_cache(tmp_path / "cache", corpus, media, encoder())
    (tmp_path / "cache" / "train.json").write_text("{")
    with pytest.raises(InputError, match=r"train\.json: cannot be read"):
        FeatureCache(tmp_path / "cache").examples("train")
