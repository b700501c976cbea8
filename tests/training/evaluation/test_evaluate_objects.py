"""`streamcap evaluate --labels` as a user runs it: object words, held-out images, and what is wrong in one line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamcap.cli import main
from streamcap.media.scenes import draw, random_scene

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["streamcap", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Two drawn images that are held out, one that is not and one that is broken."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(4)
    for name in ("voc5-000001.jpg", "voc5-000002.jpg", "lehtcoco-0.jpg"):
        Image.fromarray(draw(random_scene(rng), 1.0, 160, 120)).save(tmp_path / "images" / name)
    (tmp_path / "images" / "voc5-broken.jpg").write_bytes(b"no image")
    names = ("voc5-000001.jpg", "voc5-000002.jpg", "voc5-broken.jpg", "voc5-gone.jpg")
    rows = [f"{name}|voc5|all|car:1" for name in names]
    (tmp_path / "labels.csv").write_text("\n".join(["image_name|source|split|labels", *rows, ""]))
    captions = "image_name| comment_number| comment\nvoc5-000002.jpg| 0| A dog runs .\n"
    (tmp_path / "captions.csv").write_text(captions)
    return tmp_path


def test_evaluate_labels_reports_objects(run: Run, pool: Path, tmp_path: Path) -> None:
    options = ("--labels", pool / "labels.csv", "--media", pool / "images", "--device", "cpu", "--beam", 1)
    status, out, err = run("evaluate", "mini", *options, "--out", tmp_path / "out", "--json")
    assert status == 0
    assert "voc5-broken.jpg: broken" in err
    report = json.loads(out)
    assert report["objects"]["images"] == report["objects"]["main_objects"] == 2
    assert json.loads((tmp_path / "out" / "objects.json").read_text())["objects"] == report["objects"]
    assert "cider" not in report
    status, out, _ = run("evaluate", "mini", *options, "--captions", pool / "captions.csv", "--held-out", "--json")
    assert status == 0
    held = json.loads(out)
    assert held["objects"]["images"] == 1
    status, out, _ = run("evaluate", "mini", *options, "--captions", pool / "captions.csv")
    assert "cider" in out and "objects precision" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "labels.csv"), "--labels goes with --media"),
        (("--detections", "seen.jsonl", "--cache", "cache"), "--detections and --held-out go with --labels"),
        (("--labels", "nowhere.csv", "--media", "images", "--device", "cpu"), "nowhere.csv: cannot be read"),
    ],
)
def test_evaluate_labels_bad_input(
    run: Run, pool: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(pool)
    status, _, err = run("evaluate", "mini", *options)
    assert status == 2
    assert message in err and len(err.strip().splitlines()) == 1
