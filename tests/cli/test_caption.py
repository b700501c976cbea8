"""`streamcap caption` on the command line."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

import streamcap.captioner as captioner_room
from streamcap.captioner import Captioner, Result, SearchOptions, load_captioner
from streamcap.cli import main
from streamcap.cli.progress import progress_bar
from streamcap.image_spec import ImageSpec
from tests.media.numbered_frames import ffmpeg, ffprobe_cues, ffprobe_times, numbered, read_number, write_numbered

Run = Callable[..., tuple[int, str, str]]
COUNT = 40
STAMPS = [40 * number + 200 * (number // 9) for number in range(COUNT)]


class Reader:
    """A fake captioner: returns the number that an image shows."""

    def __init__(self, clip_length: int | None = None) -> None:
        self.image_spec = ImageSpec(60, 20, fit="squash")
        self.info = {"family": "reader"}
        self.clip_length = clip_length
        self.batches: list[int] = []

    def encode(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        self.batches.append(len(pixels))
        assert pixels.shape[-3:] == (20, 60, 3)
        flat = pixels.reshape(-1, 20, 60, 3)
        return torch.tensor([read_number(image_spec) for image_spec in flat]).reshape(len(pixels), -1)

    def decode(self, embeddings: torch.Tensor, search: SearchOptions) -> list[Result]:
        return [self._result(row, f"beam {search.beam_size} ") for row in embeddings]

    def decoder(self, search: SearchOptions, *, max_rows: int) -> Any:
        waiting: dict[int, torch.Tensor] = {}
        decoder = SimpleNamespace(active=0)

        def add(key: int, row: torch.Tensor) -> None:
            waiting[key] = row
            decoder.active += 1

        def step() -> list[tuple[int, Result]]:
            # Out of order, and in several batches.
            key, row = waiting.popitem()
            decoder.active -= 1
            return [(key, self._result(row, "" if search.temperature == 0 else f"seed {search.seed} "))]

        decoder.add, decoder.step = add, step
        return decoder

    def require_text(self) -> None: ...

    @staticmethod
    def _result(row: torch.Tensor, before: str) -> Result:
        said = " ".join(str(int(number)) for number in row)
        return Result(f"{before}number {said}", [1, 2], -0.5, 0.75)


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


def load(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def written(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Images


def test_single_image_is_one_line(run: Run, reader: Reader, images: Path) -> None:
    assert run(images / "a.jpg") == (0, "number 1\n", "")


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("mini", "model mini: drawn scenes, people and dogs outdoors; for other cameras --model clipcap-coco\n"),
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
        f"left out: {images / 'notes.txt'}: not an image (by its suffix)",
        "5 captioned, 1 left out",
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
    assert [line.split(":")[0] for line in lines] == ["left out"] * 3 + ["streamcap"]
    assert [Path(line.split(": ")[1]).name for line in lines[:3]] == ["notes.txt", "b.png", "c.webp"]
    assert lines[3] == "streamcap: 3 captioned, 3 left out, 2 of which cannot be read"


def test_caption_folder_names_videos(run: Run, reader: Reader, images: Path, film: Path) -> None:
    (images / "clip.mp4").write_bytes(film.read_bytes())
    status, out, err = run(images)
    assert (status, out.count("\n")) == (0, 5)
    assert f"left out: {images / 'clip.mp4'}: a video; only images of a folder are captioned" in err
    assert err.endswith("5 captioned, 2 left out\n")


def _flip_film(tmp_path: Path, **turn: Any) -> Path:
    path = tmp_path / "turned.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.set_display_rotation(**turn)
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(numbered(19, 80, 48), format="rgb24")
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    return path


def test_caption_mirrored_video(run: Run, reader: Reader, tmp_path: Path) -> None:
    mirrored = sum(1 << (9 - bit) for bit in range(10) if 19 >> bit & 1)
    path = _flip_film(tmp_path, degrees=0, hflip=True)
    status, out, _ = run(path, "-n", 1, "--save-frames", tmp_path / "frames")
    assert (status, out) == (0, f"00:00:00.000  number {mirrored}\n")
    (frame,) = (tmp_path / "frames").iterdir()
    assert read_number(np.asarray(load(frame))) == mirrored


def test_caption_saves_anamorphic_frames_wide(run: Run, reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "anamorphic.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=96x96:rate=5:duration=1,setsar=16/9", path)
    assert run(path, "-n", 1, "--save-frames", tmp_path / "frames")[0] == 0
    (frame,) = (tmp_path / "frames").iterdir()
    assert load(frame).size == (171, 96)


def test_caption_tells_which_of_several_videos(run: Run, reader: Reader, tmp_path: Path) -> None:
    film = write_numbered(tmp_path / "two.mkv", [0, 100], others=["small video"])
    status, out, err = run(film, "-n", 1)
    assert (status, out) == (0, "00:00:00.000  number 0\n")
    assert err == (f"{film}: 2 videos in it; taking stream 1 (h264 80x48), not stream 0 (mpeg4 16x16)\n")


@pytest.mark.parametrize("suffix", [".webp", ".apng", ".png"])
def test_caption_animated_image_as_video(run: Run, reader: Reader, tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(numbered(number, 80, 48)) for number in range(1, 5)]
    path = tmp_path / f"moving{suffix}"
    kind = "WEBP" if suffix == ".webp" else "PNG"
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=500, loop=0, **options)
    assert run(path)[1] == "number 1\n"
    status, out, err = run(path, "--every", 1, "-o", tmp_path / "out.srt")
    assert (status, out, err) == (0, "", "")
    assert (tmp_path / "out.srt").read_text().splitlines() == [
        "1", "00:00:00,000 --> 00:00:01,000", "number 1", "",
        "2", "00:00:01,000 --> 00:00:02,000", "number 3", "",
    ]  # fmt: skip


def test_caption_still_webp_stays_a_picture(run: Run, reader: Reader, images: Path) -> None:
    status, _, err = run(images / "more" / "c.webp", "--every", 1)
    assert status == 2
    assert "all files are images" in err


def test_clip_model_repeats_single_image(run: Run, reader: Reader, images: Path) -> None:
    reader.clip_length = 3
    assert run(images / "a.jpg")[1] == "number 1 1 1\n"


# Videos


def test_subtitle_times_match_ffprobe(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    truth = [round(1000 * time) for time in ffprobe_times(film) if time is not None]
    assert run(film, "-n", 10, "-o", tmp_path / "film.srt") == (0, "", "")
    texts = [block.splitlines()[2] for block in (tmp_path / "film.srt").read_text().strip().split("\n\n")]
    numbers = [int(text.removeprefix("number ")) for text in texts]
    cues = ffprobe_cues(tmp_path / "film.srt")
    assert len(cues) == 10
    assert [round(1000 * begin) for begin, _ in cues] == [truth[number] for number in numbers]
    ends = [round(1000 * (begin + duration)) for begin, duration in cues]
    assert ends[:-1] == [round(1000 * begin) for begin, _ in cues[1:]]
    assert ends[-1] == truth[-1] + 40


def test_every_frame_gets_a_cue(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    assert run(film, "-n", 1000, "-o", tmp_path / "film.vtt")[0] == 0
    cues = ffprobe_cues(tmp_path / "film.vtt")
    assert [round(1000 * begin) for begin, _ in cues] == STAMPS
    assert (tmp_path / "film.vtt").read_text().startswith("WEBVTT\n")


def test_legacy_json_format(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    assert run(film, "--every", 1, "-o", tmp_path / "film.json", "--lang", "de")[0] == 0
    entries = json.loads((tmp_path / "film.json").read_text())
    assert entries[0] == {"start": "00:00:00,000", "end": "00:00:00,880", "lang": "de", "text": "number 0"}
    assert [entry["text"] for entry in entries] == ["number 0", "number 17", "number 35"]
    assert [list(entry) for entry in entries] == [["start", "end", "lang", "text"]] * 3


def test_text_on_stdout(run: Run, reader: Reader, film: Path) -> None:
    status, out, err = run(film, "-n", 2)
    assert (status, err) == (0, "")
    assert out == "00:00:00.000  number 0\n00:00:01.200  number 20\n"


def test_subtitle_formats_on_stdout(run: Run, reader: Reader, film: Path) -> None:
    assert run(film, "-n", 1, "--format", "srt")[1] == "1\n00:00:00,000 --> 00:00:02,400\nnumber 0\n\n"
    assert json.loads(run(film, "-n", 1, "--format", "json")[1])[0]["text"] == "number 0"
    (entry,) = json.loads(run(film, "-n", 1, "--json")[1])
    assert entry["path"] == str(film)
    assert entry["captions"][0]["text"] == "number 0"
    assert {caption["confidence"] for caption in entry["captions"]} == {0.75}


def test_merge_joins_equal_neighbors(run: Run, reader: Reader, film: Path) -> None:
    reader.encode = lambda pixels: torch.tensor([[7]] * len(pixels))  # type: ignore[method-assign]
    assert run(film, "-n", 9, "--format", "srt", "--merge")[1] == "1\n00:00:00,000 --> 00:00:02,400\nnumber 7\n\n"
    assert run(film, "-n", 9, "--merge")[1] == "00:00:00.000  number 7\n"


def test_captioned_frames_are_saved(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    run(film, "-n", 2, "--save-frames", tmp_path / "clean", "--annotate", tmp_path / "drawn")
    assert written(tmp_path / "clean") == ["frame_0001_0.000s.jpg", "frame_0002_1.200s.jpg"]
    assert written(tmp_path / "drawn") == written(tmp_path / "clean")
    assert read_number(np.asarray(load(tmp_path / "clean" / "frame_0002_1.200s.jpg"))) == 20
    assert load(tmp_path / "drawn" / "frame_0001_0.000s.jpg").height > 48


def test_clip_model_gets_frame_windows(run: Run, reader: Reader, film: Path) -> None:
    reader.clip_length = 4
    assert run(film)[1] == "00:00:00.000  number 0 13 26 39\n"
    assert run(film, "-n", 2)[1] == "00:00:00.000  number 0 6 13 19\n00:00:01.200  number 20 26 33 39\n"


def test_several_videos_go_into_a_directory(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    other = write_numbered(tmp_path / "other.mkv", range(0, 400, 40))
    assert run(film, other, "-n", 2, "-o", tmp_path / "out")[0] == 0
    assert written(tmp_path / "out") == ["film.srt", "other.srt"]
    assert "number 5" in (tmp_path / "out" / "other.srt").read_text()
    assert run(film, "--format", "vtt", "-o", f"{tmp_path}/new/")[0] == 0
    assert written(tmp_path / "new") == ["film.vtt"]
    lines = run(film, other, "-n", 1)[1].splitlines()
    assert lines == [f"{film}: 00:00:00.000  number 0", f"{other}: 00:00:00.000  number 0"]


def test_decoding_options_reach_model(run: Run, reader: Reader, film: Path) -> None:
    assert run(film, "-n", 1, "--beam", 5)[1] == "00:00:00.000  beam 5 number 0\n"
    assert run(film, "-n", 1, "--temperature", 0.7, "--seed", 3)[1] == "00:00:00.000  seed 3 number 0\n"


def test_animated_gif_is_a_video_when_times_requested(run: Run, reader: Reader, film: Path, tmp_path: Path) -> None:
    ffmpeg("-i", film, tmp_path / "film.gif")
    assert run(tmp_path / "film.gif")[1] == "number 0\n"
    assert run(tmp_path / "film.gif", "-n", 2)[1].startswith("00:00:00.000  number 0\n00:00:01")


# Wrong use and bad input


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
    golden = Path(__file__).parents[1] / "captioner" / "golden" / "videocaptioner_net.pt"
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


# The bar


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
        said = stream.getvalue()
        assert ("film.mp4" in said and "2/4" in said and "/s" in said) is shown
        assert shown or said == ""


# End to end, with the built-in model


@pytest.fixture(scope="module")
def mini() -> Iterator[Captioner]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny matrices: a second thread only waits
    yield load_captioner("mini", device="cpu", precision="fp32")
    torch.set_num_threads(threads)


@pytest.fixture
def with_mini(mini: Captioner, monkeypatch: pytest.MonkeyPatch) -> Captioner:
    monkeypatch.setattr(captioner_room, "load_captioner", lambda name, **options: mini, raising=False)
    return mini


@pytest.mark.slow
def test_mini_captions_a_video(run: Run, with_mini: Captioner, tmp_path: Path) -> None:
    from tests.media.fakes import write_video

    path = write_video(tmp_path / "scene.mp4", seconds=2.0, size=(320, 180))
    assert run(path, "-n", 4, "-o", tmp_path / "scene.srt") == (0, "", "")
    assert [round(1000 * begin) for begin, _ in ffprobe_cues(tmp_path / "scene.srt")] == [0, 500, 1000, 1500]
    assert "dog" in (tmp_path / "scene.srt").read_text()


def test_cli_captions_equal_python_api(run: Run, with_mini: Captioner, images: Path) -> None:
    (result,) = with_mini.caption([load(images / "b.png")])
    assert run(images / "b.png")[1] == f"{result.text}\n"
    (result,) = with_mini.caption([load(images / "b.png")], beam_size=3)
    assert run(images / "b.png", "--beam", 3)[1] == f"{result.text}\n"


@pytest.mark.slow
def test_seed_is_independent_of_batch_size(run: Run, with_mini: Captioner, film: Path) -> None:
    sampled = [
        run(film, "-n", 5, "--temperature", 1.5, "--top-p", 0.95, "--seed", 7, "--batch", size)[1]
        for size in (1, 3, 16)
    ]
    assert sampled[0] == sampled[1] == sampled[2]
    assert run(film, "-n", 5, "--temperature", 1.5, "--top-p", 0.95, "--seed", 8)[1] != sampled[0]
