"""`streamcap caption` with the embedded model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import streamcap.captioner as captioner_room
from streamcap.captioner import Captioner, load_captioner
from tests.cli.caption.fakes import Run, load
from tests.media.numbered_frames import ffprobe_cues

pytestmark = pytest.mark.slow


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
