"""`streamcap caption` with wrong use and bad input, and its progress bar."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from streamcap.cli.progress import progress_bar
from tests.cli.caption.fakes import Reader, Run, written
from tests.media.numbered_frames import ffmpeg

pytestmark = pytest.mark.slow


@pytest.fixture
def bad(tmp_path: Path, film: Path) -> Path:
    folder = tmp_path / "bad"
    (folder / "none").mkdir(parents=True)
    (folder / "text.jpg").write_text("no image")
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").touch()
    (folder / "empty.png").touch()
    (folder / "cut.mp4").write_bytes(film.read_bytes()[:2000])
    whole = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(whole, "PNG")
    (folder / "cut.png").write_bytes(whole.getvalue()[:1500])
    ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", folder / "sound.mp4")
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    return folder


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.jpg"], "no such file"),
        (["missing.mp4", "-o", "out.srt"], "no such file"),
        (["text.jpg"], "not an image"),
        (["text.mp4", "-o", "out.srt"], "not a video"),
        (["empty.mp4", "-o", "out.srt"], "empty"),
        (["empty.png"], "empty"),
        (["cut.mp4", "-o", "out.srt"], "cut short"),
        (["cut.png", "-o", "out.txt"], "damaged"),
        (["sound.mp4", "-o", "out.srt"], "only sound"),
        (["none"], "no images"),
        (["FILM", "-n", "0"], "-n"),
        (["FILM", "-n", "2", "--every", "1"], "not both"),
        (["FILM", "--every", "0"], "--every 0"),
        (["FILM", "--every", "nan"], "--every nan"),
        (["FILM", "-o", "out.doc"], ".srt"),
        (["FILM", "-o", "no/where/out.srt"], "no such directory"),
        (["FILM", "--format", "ass"], "--format ass"),
        (["FILM", "--fit", "stretch"], "Invalid value for '--fit'"),
        (["FILM", "--beam", "3", "--temperature", "1"], "beam"),
        (["FILM", "--top-p", "2"], "top_p"),
        (["good.png", "-o", "out.srt"], "images have no timestamps"),
        (["good.png", "-o", "."], "a directory is for videos"),
        (["good.png", "--annotate", "text.mp4/drawn"], "text.mp4 is not a directory"),
        (["FILM", "-n", "2", "--save-frames", "text.mp4"], "text.mp4 is not a directory"),
        (["FILM", "FILM2", "-o", "out.srt"], "DIRECTORY"),
        (["FILM", "FILM2", "-o", "out"], "two videos are named film"),
        (["good.png", "--annotate", "."], "overwritten"),
        (["rtsp://camera/door"], "serve"),
        (["good.png", "--every", "1"], "for videos"),
        (["FILM", "-o", "/proc/out.srt"], "/proc"),
    ],
)
def test_invalid_input_is_one_line_and_writes_nothing(
    run: Run, reader: Reader, bad: Path, film: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(bad)
    (bad.parent / "elsewhere").mkdir()
    twin = bad.parent / "elsewhere" / "film.mp4"
    twin.write_bytes(film.read_bytes())
    before = written(bad)
    paths = {"FILM": str(film), "FILM2": str(twin)}
    status, out, err = run(*(paths.get(argument, argument) for argument in arguments))
    assert (status, out) == (2, "")
    assert err.startswith("streamcap: ")
    assert err.count("\n") == 1, err
    assert says in err
    assert written(bad) == before


def test_model_without_tokenizer_is_refused(run: Run, images: Path, tmp_path: Path) -> None:
    golden = Path(__file__).parents[2] / "captioner" / "golden" / "videocaptioner_net.pt"
    status, out, err = run(images / "a.jpg", "--model", golden, "--device", "cpu", "-o", tmp_path / "out.txt")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "tokenizer" in err
    assert not (tmp_path / "out.txt").exists()


def test_failed_run_keeps_old_output(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    (tmp_path / "film.srt").write_text("old")

    def broken(pixels: object) -> torch.Tensor:
        raise RuntimeError("the device went away")

    reader.encode = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="device"):
        run(film, "-o", tmp_path / "film.srt")
    assert written(tmp_path) == ["film.srt"]
    assert (tmp_path / "film.srt").read_text() == "old"


def test_out_of_memory_is_one_line(run: Run, reader: Reader, images: Path) -> None:
    def full(pixels: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation")

    reader.encode = full  # type: ignore[method-assign]
    status, _, err = run(images / "a.jpg")
    assert (status, err.count("\n")) == (1, 1)
    assert "out of memory" in err and "2.00 GiB" in err and "smaller model" in err


def test_progress_bar_only_on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        with progress_bar() as progress:
            task = progress.add_task("film.mp4", total=4)
            progress.advance(task)
            progress.advance(task)
            progress.refresh()
        printed = stream.getvalue()
        assert ("film.mp4" in printed and "2/4" in printed and "/s" in printed) is shown
        assert shown or printed == ""
