"""`streamcap dataset`, `train` and `evaluate` as a user runs them, on generated files, with the packaged model."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from streamcap.captioner import load_captioner
from streamcap.captioner.registry import mini_directory
from streamcap.cli import main
from streamcap.media.scenes import draw, random_scene
from streamcap.training.curves import read_curves
from streamcap.training.data.encoders import open_encoder
from tests.training.conftest import make_cache

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]
SPLITS = {"train": range(8), "dev": range(8, 11), "test": range(11, 14)}
SHAPE = "--preset small --prefix 2 --mapper-layers 1 --mapper-heads 2 --width 64 --layers 1 --vocabulary 320"
PACE = "--batch 4 --epochs 2 --learning-rate 0.003 --warmup 2"
TRAIN = (*SHAPE.split(), *PACE.split(), "--device", "cpu")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["streamcap", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def flickr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen synthetic images in Flickr8k's layout; number 3 is broken, and one listed image is missing."""
    folder = tmp_path_factory.mktemp("flickr")
    (folder / "images").mkdir()
    rng = np.random.default_rng(2)
    lines = ["image_name| comment_number| comment"]
    for number in range(14):
        scene = random_scene(rng)
        Image.fromarray(draw(scene, 1.0, 160, 120)).save(folder / "images" / f"{number}.jpg")
        lines += [f"{number}.jpg| 0| {scene.sentence.capitalize()} .", f"{number}.jpg| 1| this is {scene.sentence}"]
    (folder / "images" / "3.jpg").write_bytes(b"not an image")
    (folder / "results.csv").write_text("\n".join([*lines, "gone.jpg| 0| a ghost"]))
    for split, numbers in SPLITS.items():
        (folder / f"{split}.txt").write_text("".join(f"{number}.jpg\n" for number in numbers))
    with (folder / "train.txt").open("a") as listed:
        listed.write("gone.jpg\n")
    return folder


def dataset_arguments(flickr: Path, out: Path) -> list[object]:
    splits = [part for split in SPLITS for part in ("--split", f"{split}={flickr / split}.txt")]
    media = ["--media", flickr / "images", "--encoder", "mini", "--device", "cpu"]
    return ["dataset", flickr / "results.csv", *media, *splits, "--out", out]


@pytest.fixture(scope="module")
def cache(flickr: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "cache"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["streamcap", *map(str, dataset_arguments(flickr, out))])
        main()
    assert not ended.value.code
    return out


def error_of(result: tuple[int, str, str], status: int) -> str:
    """The one line that a failed command ends with."""
    actual, out, err = result
    assert actual == status, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.startswith("streamcap: ")]
    assert len(lines) == 1 and err.rstrip().endswith(lines[0]), err
    assert "Traceback" not in err
    return lines[0]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_dataset_train_evaluate_from_images(run: Run, flickr: Path, tmp_path: Path) -> None:
    cache, trained, scores = tmp_path / "cache", tmp_path / "run", tmp_path / "scores"
    status, out, err = run(*dataset_arguments(flickr, cache))
    assert status == 0
    assert "train 7, dev 3, test 3; left out: 1 missing, 1 broken" in out
    assert "left out: gone.jpg: missing" in err
    status, out, err = run("train", cache, "--out", trained, *TRAIN)
    assert status == 0 and str(trained / "best") in out
    assert err.count("dev CIDEr") == 2
    rows = read_curves(trained / "curves.csv")
    assert [row["epoch"] for row in rows if row["dev_cider"]] == ["1", "2"]
    assert load_captioner(str(trained / "best"), device="cpu").info["family"] == "streamcap"
    media = ["--media", flickr / "images"]
    status, out, _ = run("evaluate", trained / "best", "--cache", cache, *media, "--out", scores, "--device", "cpu")
    assert status == 0 and "bleu4" in out and "calibration error" in out
    report = json.loads((scores / "scores.json").read_text())
    assert report["captions"] == 3 and report["beam"] == 3
    assert len(json.loads((scores / "captions.json").read_text())) == 3
    with Image.open(scores / "sheet.png") as sheet:
        assert sheet.width > 1000
    # From the images: their features differ from the cache only by rounding to float16.
    listed = ["--captions", flickr / "results.csv", "--split-file", flickr / "test.txt"]
    status, out, _ = run("evaluate", trained / "best", *listed, *media, "--json", "--device", "cpu")
    assert status == 0
    assert json.loads(out)["bleu1"] == pytest.approx(report["bleu1"], abs=0.2)


def test_train_json_reports_kept_checkpoint(run: Run, cache: Path, tmp_path: Path) -> None:
    trained = tmp_path / "run"
    status, out, _ = run("train", cache, "--out", trained, *TRAIN, "--json")
    assert status == 0 and out.count("\n") == 1
    report = json.loads(out)
    assert load_captioner(report["checkpoint"], device="cpu").info["family"] == "streamcap"
    scored = {row["step"]: row for row in read_curves(trained / "curves.csv") if row["dev_cider"]}
    best = max(scored.values(), key=lambda row: float(row["dev_cider"]))
    # Seven images in batches of four: two steps per epoch, two epochs.
    assert report["steps"] == 4 and list(scored) == ["2", "4"]
    assert report["epoch"] == int(best["epoch"]) and str(report["step"]) in scored
    assert scored[str(report["step"])]["epoch"] == best["epoch"]
    assert report["dev"]["cider"] == pytest.approx(float(best["dev_cider"]), abs=1e-4)
    assert report["dev"]["bleu4"] == pytest.approx(float(best["dev_bleu4"]), abs=1e-4)
    # Resuming a finished run prints the same result.
    status, out, _ = run("train", cache, "--out", trained, *TRAIN, "--json", "--resume")
    assert status == 0 and json.loads(out) == report


def test_run_without_scores_keeps_last_checkpoint(run: Run, flickr: Path, tmp_path: Path) -> None:
    media = ["--media", flickr / "images", "--encoder", "mini", "--device", "cpu"]
    split = ["--split", f"train={flickr / 'dev.txt'}"]
    assert run("dataset", flickr / "results.csv", *media, *split, "--out", tmp_path / "cache")[0] == 0
    status, out, _ = run("train", tmp_path / "cache", "--out", tmp_path / "run", *TRAIN, "--json")
    assert status == 0
    report = json.loads(out)
    assert report == {"checkpoint": str(tmp_path / "run" / "best"), "steps": 2, "step": 2, "epoch": 2, "dev": None}


def test_dataset_train_evaluate_from_clips(run: Run, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    rng = np.random.default_rng(4)
    videos, sentences = [], []
    for number, split in enumerate(["train"] * 4 + ["validate"] * 2 + ["test"] * 2):
        scene = random_scene(rng)
        with av.open(str(clips / f"video{number}.mp4"), "w") as out:
            stream = out.add_stream("libx264", rate=5)
            stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
            stream.time_base = Fraction(1, 5)
            for i in range(4):
                frame = av.VideoFrame.from_ndarray(draw(scene, 1 + i / 5, 160, 96), format="rgb24")
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        videos.append({"video_id": f"video{number}", "split": split})
        sentences.append({"video_id": f"video{number}", "caption": scene.sentence})
    (tmp_path / "msrvtt.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
    cache, trained = tmp_path / "cache", tmp_path / "run"
    how = ["--format", "msrvtt", "--frames", 3, "--encoder", "mini", "--features", "pooled", "--device", "cpu"]
    status, text, _ = run("dataset", tmp_path / "msrvtt.json", *how, "--json", "--media", clips, "--out", cache)
    manifest = json.loads(text)
    assert status == 0 and manifest["counts"] == {"train": 4, "dev": 2, "test": 2} and manifest["frames"] == 3
    assert run("train", cache, "--out", trained, "--mapping", "video-transformer", *TRAIN)[0] == 0
    status, text, _ = run("evaluate", trained / "best", "--cache", cache, "--media", clips, "--json", "--device", "cpu")
    assert status == 0 and json.loads(text)["captions"] == 2
    assert load_captioner(str(trained / "best"), device="cpu").clip_length == 3


def test_same_seed_gives_same_weights(run: Run, cache: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        assert run("train", cache, "--out", tmp_path / name, *TRAIN, "--seed", seed)[0] == 0
    one, two, other = (
        (tmp_path / name / "best" / "model.safetensors").read_bytes() for name in ("one", "two", "other")
    )
    assert one == two != other
    assert (tmp_path / "one" / "curves.csv").read_bytes() == (tmp_path / "two" / "curves.csv").read_bytes()


def test_dataset_errors_are_one_line(run: Run, flickr: Path, tmp_path: Path) -> None:
    arguments = dataset_arguments(flickr, tmp_path / "cache")
    (tmp_path / "none.txt").write_text("gone.jpg\n")
    line = error_of(run(*arguments[:-2], "--split", f"dev={tmp_path / 'none.txt'}", *arguments[-2:]), 2)
    assert "the split dev is empty" in line and "missing" in line
    assert "NAME=FILE" in error_of(run(*arguments[:-2], "--split", "nope", *arguments[-2:]), 2)
    assert "no such folder" in error_of(run("dataset", "x.csv", "--media", tmp_path / "no", "--out", tmp_path / "o"), 2)
    assert not (tmp_path / "cache").exists()


def test_cache_of_other_encoder_is_kept(run: Run, flickr: Path, cache: Path, tmp_path: Path) -> None:
    mine = tmp_path / "cache"
    shutil.copytree(cache, mine)
    before = files_of(mine)
    line = error_of(run(*dataset_arguments(flickr, mine), "--features", "pooled"), 2)
    assert "different encoder" in line and "nothing was overwritten" in line
    assert files_of(mine) == before


def test_train_errors_are_one_line_and_overwrite_nothing(run: Run, cache: Path, tmp_path: Path) -> None:
    trained = tmp_path / "run"
    assert run("train", cache, "--out", trained, *TRAIN)[0] == 0
    before = files_of(trained)
    assert "--resume" in error_of(run("train", cache, "--out", trained, *TRAIN), 2)
    line = error_of(run("train", cache, "--out", trained, *TRAIN, "--batch", 8, "--resume"), 2)
    assert "other settings: batch is 4 in the run and 8 now" in line and "nothing was overwritten" in line
    other = make_cache(tmp_path / "features", (16, 256)).folder
    line = error_of(run("train", other, "--out", trained, *TRAIN, "--resume"), 2)
    assert "another encoder" in line
    assert files_of(trained) == before
    assert "no such folder" in error_of(run("train", tmp_path / "no", "--out", tmp_path / "x", *TRAIN), 2)
    assert "manifest.json is missing" in error_of(run("train", trained, "--out", tmp_path / "x", *TRAIN), 2)
    assert "preset 'huge'" in error_of(run("train", cache, "--out", tmp_path / "x", "--preset", "huge"), 2)
    line = error_of(run("train", cache, "--out", tmp_path / "x", *TRAIN, "--mapping", "mlp"), 2)
    assert "one embedding per image" in line
    assert not (tmp_path / "x").exists()


def test_nan_loss_exits_with_status_1(run: Run, cache: Path, tmp_path: Path) -> None:
    hot = [*TRAIN, "--learning-rate", "0.99", "--warmup", "0", "--epochs", "60"]
    spoilt = make_cache(tmp_path / "features", (16, 256), scale=float("inf"), encoder=open_encoder("mini").id).folder
    line = error_of(run("train", spoilt, "--out", tmp_path / "run", *hot), 1)
    assert "the loss is nan at step 1" in line and str(tmp_path / "run") in line
    assert not (tmp_path / "run" / "best").exists()


def test_full_disk_exits_with_status_1_and_keeps_epoch(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = tmp_path / "run"
    assert run("train", cache, "--out", trained, *TRAIN, "--epochs", 1)[0] == 0
    options = json.loads((trained / "settings.json").read_text())
    options["train"]["epochs"] = 2
    (trained / "settings.json").write_text(json.dumps(options))
    kept = (trained / "last.pt").read_bytes()

    def save(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr(torch, "save", save)
        line = error_of(run("train", cache, "--out", trained, *TRAIN, "--resume"), 1)
    assert "cannot be written" in line
    assert (trained / "last.pt").read_bytes() == kept
    assert not list(trained.rglob("*.part"))
    # Once the disk has space, the same command continues.
    assert run("train", cache, "--out", trained, *TRAIN, "--resume")[0] == 0


def test_evaluate_errors_are_one_line(run: Run, flickr: Path, cache: Path, tmp_path: Path) -> None:
    assert "either --cache" in error_of(run("evaluate", "mini"), 2)
    assert "--media" in error_of(run("evaluate", "mini", "--captions", flickr / "results.csv", "--device", "cpu"), 2)
    assert "no split 'all'" in error_of(run("evaluate", "mini", "--cache", cache, "--split", "all"), 2)
    clips = make_cache(tmp_path / "features", (3, 24), frames=3, encoder=open_encoder("mini").id).folder
    line = error_of(run("evaluate", "mini", "--cache", clips, "--split", "dev", "--device", "cpu"), 2)
    assert "embeddings have shape" in line
    other = make_cache(tmp_path / "other", (16, 256)).folder
    line = error_of(run("evaluate", "mini", "--cache", other, "--split", "dev", "--device", "cpu"), 2)
    assert "made by another vision encoder (made-up)" in line


def test_evaluate_without_tokenizer_is_refused(run: Run, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(mini_directory(), tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    line = error_of(run("evaluate", tmp_path / "model", "--cache", cache, "--device", "cpu"), 2)
    assert "tokenizer" in line and str(tmp_path / "model") in line


def test_split_of_damaged_images_is_reported_and_retried(run: Run, flickr: Path, tmp_path: Path) -> None:
    shutil.copytree(flickr / "images", tmp_path / "images")
    original = (tmp_path / "images" / "8.jpg").read_bytes()
    (tmp_path / "images" / "8.jpg").write_bytes(original[:300])
    (tmp_path / "one.txt").write_text("8.jpg\n")
    media = ["--media", tmp_path / "images", "--encoder", "mini", "--device", "cpu"]
    arguments = ["dataset", flickr / "results.csv", *media, "--split", f"dev={tmp_path / 'one.txt'}"]
    for _ in range(2):
        result = run(*arguments, "--out", tmp_path / "cache")
        assert "no item of the split dev could be read" in error_of(result, 2)
        assert "left out: 8.jpg: broken the image is damaged" in result[2]
    (tmp_path / "images" / "8.jpg").write_bytes(original)
    status, out, _ = run(*arguments, "--out", tmp_path / "cache")
    assert status == 0 and "dev 1; left out: nothing" in out


def test_missing_packages_are_reported_before_work(
    run: Run, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    for arguments in (["train", cache, *TRAIN], ["evaluate", "mini", "--cache", cache]):
        line = error_of(run(*arguments, "--out", tmp_path / "out"), 2)
        assert "pycocoevalcap" in line and "pip install '.[train]'" in line
    assert not (tmp_path / "out").exists()


def test_unwritable_folder_is_reported_before_work(
    run: Run, flickr: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out"
    for step in ("data.dataset.BATCH_IMAGES", "trainer.pack", "evaluation.evaluation.caption_cache"):
        monkeypatch.setattr(f"streamcap.training.{step}", None)
    evaluate = ["evaluate", "mini", "--cache", cache, "--device", "cpu", "--out", out]
    for arguments in (dataset_arguments(flickr, out), ["train", cache, *TRAIN, "--out", out], evaluate):
        assert f"{out}: this directory cannot be made" in error_of(run(*arguments), 2)
