"""`streamcap caption` of images and folders."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamcap.cli import main
from tests.cli.caption.fakes import Reader, Run, load, written
from tests.media.numbered_frames import numbered

pytestmark = pytest.mark.slow


def test_single_image_is_one_line(run: Run, reader: Reader, images: Path) -> None:
    assert run(images / "a.jpg") == (0, "number 1\n", "")


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("mini", "model mini: streets, animals, rooms, people outdoors; for other cameras --model clipcap-coco\n"),
        ("clipcap-coco", "model clipcap-coco: everyday scenes indoors and outdoors, in careful sentences\n"),
        ("own.pt", "model own.pt: a reader checkpoint; it describes what it was trained on\n"),
    ],
)
def test_caption_names_its_model(
    reader: Reader, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    model: str, line: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["streamcap", "caption", str(images / "a.jpg"), "--model", model])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr() == ("number 1\n", line)


def test_folder_is_one_line_per_image(run: Run, reader: Reader, images: Path) -> None:
    status, out, err = run(images, "--batch", 2)
    names = ["a.jpg", "b.png", "more/c.webp", "more/d.bmp", "more/e.gif"]
    assert out.splitlines() == [f"{images / name}: number {number}" for number, name in enumerate(names, 1)]
    assert status == 0
    assert err.splitlines() == [
        f"left out: {images / 'notes.txt'}: its suffix is not that of an image",
        f"left out: {images / '.hidden'}: hidden",
        "5 captioned, 2 left out",
    ]
    assert reader.batches == [2, 2, 1]


def test_json_output_is_an_array(run: Run, reader: Reader, images: Path) -> None:
    status, out, _ = run(images / "b.png", images / "a.jpg", "--json")
    assert status == 0
    assert json.loads(out) == [
        {"path": str(images / "b.png"), "text": "number 2", "logprob": -0.5, "confidence": 0.75},
        {"path": str(images / "a.jpg"), "text": "number 1", "logprob": -0.5, "confidence": 0.75},
    ]


def test_text_and_json_files(run: Run, reader: Reader, images: Path, tmp_path: Path) -> None:
    assert run(images / "a.jpg", images / "b.png", "-o", tmp_path / "out.txt") == (0, "", "")
    assert (tmp_path / "out.txt").read_text().splitlines()[1] == f"{images / 'b.png'}: number 2"
    assert run(images / "a.jpg", "-o", tmp_path / "out.json") == (0, "", "")
    assert json.loads((tmp_path / "out.json").read_text())[0]["text"] == "number 1"


def test_annotated_copies_keep_image_and_folder_layout(run: Run, reader: Reader, images: Path, tmp_path: Path) -> None:
    before = (images / "b.png").read_bytes()
    assert run(images, "--annotate", tmp_path / "drawn")[0] == 0
    assert written(tmp_path / "drawn") == ["a.jpg", "b.png", "more/c.webp", "more/d.bmp", "more/e.gif.png"]
    copy = np.asarray(load(tmp_path / "drawn" / "b.png"))
    left = (copy.shape[1] - 120) // 2
    assert (copy[:60, left : left + 120] == numbered(2, 120, 60)).all()
    # White text on black below the image.
    assert copy[60:].max() > 200
    assert np.median(copy[60:]) < 40
    assert (images / "b.png").read_bytes() == before


def test_exif_rotation_and_transparency(run: Run, reader: Reader, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it turned by 90 degrees clockwise
    Image.fromarray(np.rot90(numbered(9, 120, 60)).copy()).save(tmp_path / "a.jpg", exif=exif)
    light = numbered(9, 120, 60)[..., :1]
    # Transparent pixels contain black.
    Image.fromarray(np.concatenate([light * 0, light * 0, light * 0, 255 - light], -1)).save(tmp_path / "b.png")
    Image.fromarray(numbered(9, 120, 60)[..., 0].astype(np.uint16) * 257).save(tmp_path / "c.png")
    status, out, _ = run(tmp_path)
    assert status == 0
    assert [line.rpartition(": ")[2] for line in out.splitlines()] == ["number 9"] * 3


def test_invalid_image_does_not_stop_folder(run: Run, reader: Reader, images: Path) -> None:
    data = (images / "b.png").read_bytes()
    (images / "b.png").write_bytes(data[: len(data) // 2])
    (images / "more" / "c.webp").write_text("no image")
    status, out, err = run(images)
    assert status == 2
    assert [line.rpartition(": ")[2] for line in out.splitlines()] == ["number 1", "number 4", "number 5"]
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["left out"] * 4 + ["streamcap"]
    assert [Path(line.split(": ")[1]).name for line in lines[:4]] == ["notes.txt", ".hidden", "b.png", "c.webp"]
    assert lines[4] == "streamcap: 3 captioned, 4 left out, 2 of which cannot be read"


def test_caption_still_webp_stays_a_picture(run: Run, reader: Reader, images: Path) -> None:
    status, _, err = run(images / "more" / "c.webp", "--every", 1)
    assert status == 2
    assert "all files are images" in err


def test_clip_model_repeats_single_image(run: Run, reader: Reader, images: Path) -> None:
    reader.clip_length = 3
    assert run(images / "a.jpg")[1] == "number 1 1 1\n"


def test_odd_names_are_one_line_and_valid_json(run: Run, reader: Reader, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    picture = io.BytesIO()
    Image.fromarray(numbered(7, 120, 60)).save(picture, "PNG")
    names = [b"new\nline.png", b"bad\xff.png", b"\x1b[31mred.png", b"-dash.png", "日本 🎥.png".encode(), b".hidden.png"]
    for name in names:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(picture.getvalue())
    status, out, err = run(folder)
    assert (status, err.splitlines()) == (0, [f"left out: {folder}/.hidden.png: hidden", "5 captioned, 1 left out"])
    shown = [r"\x1b[31mred.png", "-dash.png", r"bad\xff.png", r"new\nline.png", "日本 🎥.png"]
    assert sorted(out.splitlines()) == sorted(f"{folder}/{name}: number 7" for name in shown)
    assert run(folder, "-o", tmp_path / "out.json")[0] == 0
    entries = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert {os.fsencode(Path(entry["path"]).name) for entry in entries} == set(names[:5])


def test_name_of_255_bytes_is_annotated(run: Run, reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 251}.png"
    Image.fromarray(numbered(7, 120, 60)).save(path)
    assert run(path, "--annotate", tmp_path / "out") == (0, "number 7\n", "")
    assert written(tmp_path / "out") == [path.name]
    status, _, err = run(tmp_path / f"{'x' * 300}.png")
    assert (status, "cannot be opened: File name too long" in err) == (2, True)
