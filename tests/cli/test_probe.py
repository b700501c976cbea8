"""`streamcap probe`: its text, its JSON and its exit status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from streamcap.cli import main
from tests.media.fakes import write_video


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["streamcap", "probe", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.slow
def test_usable_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    film = write_video(tmp_path / "film.mp4")
    assert run(monkeypatch, film) == 0
    text = capsys.readouterr().out
    assert "codec               h264\n" in text
    assert "size                160x96" in text
    assert "audio               none\n" in text
    assert run(monkeypatch, film, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["usable"], report["codec"], report["frames_per_second"]) == (True, "h264", 10)


def test_unusable_source_and_wrong_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = write_video(tmp_path / "sound.mp4", video=False, audio=True)
    assert run(monkeypatch, sound) == 1
    assert capsys.readouterr().err.endswith("there is audio, but no video in it\n")
    assert run(monkeypatch, "gopher://x/1") == 2
    assert "no source has the scheme" in capsys.readouterr().err
    assert run(monkeypatch) == 2
