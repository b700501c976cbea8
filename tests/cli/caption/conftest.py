"""Fixtures of the tests of `streamcap caption`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

import streamcap.captioner as captioner_room
from streamcap.cli import main
from tests.cli.caption.fakes import STAMPS, Reader, Run
from tests.media.numbered_frames import numbered, write_numbered


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["streamcap", "caption", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        # Every run that loads a model prints its description first.
        err = "".join(line for line in captured.err.splitlines(keepends=True) if not line.startswith("model "))
        return int(ended.value.code or 0), captured.out, err

    return run


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    model = Reader()
    monkeypatch.setattr(captioner_room, "load_captioner", lambda name, **options: model, raising=False)
    return model


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("film") / "film.mp4", STAMPS, options={"g": "12", "bf": "2"})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    Image.fromarray(numbered(1, 120, 60)).save(folder / "a.jpg")
    Image.fromarray(numbered(2, 120, 60)).save(folder / "b.png")
    Image.fromarray(numbered(3, 120, 60)).save(folder / "more" / "c.webp")
    Image.fromarray(numbered(4, 120, 60)).save(folder / "more" / "d.bmp")
    Image.fromarray(numbered(5, 120, 60)).save(folder / "more" / "e.gif")
    Image.fromarray(numbered(6, 120, 60)).save(folder / ".hidden" / "f.png")
    (folder / "notes.txt").write_text("not an image")
    return folder
