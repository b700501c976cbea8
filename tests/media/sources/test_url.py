"""`check_url`: valid sources, and one-line errors without secrets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcap.errors import InputError
from streamcap.media.sources import SourceOptions, check_url, open_source
from streamcap.media.sources.libav.source import LibavSource
from streamcap.media.sources.push import PushSource
from streamcap.media.sources.scenes import ScenesSource
from streamcap.media.sources.url import LOCAL, NETWORK
from tests.examples import examples


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://camera/stream",
        "rtsps://user:word@camera:322/stream?x=1",
        "RTSP://[::1]:554/a",
        "rtmp://host/app/key",
        "srt://host:9000?passphrase=secret",
        "srt://:9000?mode=listener",
        "http://host/live.m3u8",
        "https://host/video.mjpg",
        "whip:",
    ],
)
def test_network_url_is_trimmed(url: str) -> None:
    assert check_url(f"  {url} ") == url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "names no source"),
        ("ftp://host/film.mp4", "no source has the scheme 'ftp'"),
        ("lavfi:testsrc", "no source has the scheme 'lavfi'"),
        ("rtsp:camera", "no host"),
        ("rtsp:///stream", "no host"),
        ("http://host:port/x", "[Pp]ort"),
        ("rtsp://user:hunter2@host:99999/x", "port"),
        ("rtsp://user:hunter2/x@host/x", "%2F"),
        ("/no/such/film.mp4", "there is no such file"),
        ("concat:/etc/passwd|/etc/hosts", "scheme 'concat'"),
        ("rtsp://camera/\nx", "control character"),
        ("webcam:/dev/video99", "no device /dev/video99"),
        ("webcam:99", "no device /dev/video99"),
        ("webcam:camera", "name a device"),
        ("scenes:?speed=2", "no 'speed'"),
        ("scenes:?size=big", "size=big"),
        ("scenes:?size=9x9", "from 32x32"),
        ("scenes:?rate=0", "rate"),
        ("scenes:?rate=1/0", "rate=1/0"),
        ("scenes:?seconds=nan", "seconds"),
        ("scenes:?seed=-1", "seed"),
        ("scenes:beach", "write it as"),
    ],
)
def test_invalid_source_is_refused_in_one_line(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        check_url(url)
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_local_file_is_accepted_and_directory_refused(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"")
    for url in (str(film), f"file:{film}", f"file://{film}", "scenes:", "scenes:?seed=3&rate=30"):
        assert check_url(url) == url
    with pytest.raises(InputError, match="is a directory"):
        check_url(str(tmp_path))


def test_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert check_url(str(tmp_path / "pipe")) == str(tmp_path / "pipe")


def test_file_name_with_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("take:2.mp4").write_bytes(b"")
    assert check_url("take:2.mp4") == "take:2.mp4"


def test_every_url_has_its_source() -> None:
    assert isinstance(open_source("rtsp://u:hunter2@host/x"), LibavSource)
    assert open_source("rtsp://admin:hunter2@host/1").url == "rtsp://admin:***@host/1"
    assert isinstance(open_source("scenes:"), ScenesSource)
    assert isinstance(open_source("whip:", options=SourceOptions(read_timeout=1)), PushSource)


@pytest.mark.parametrize("timeouts", [(0.0, 5.0), (5.0, -1.0)])
def test_timeout_must_be_positive(timeouts: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="above 0"):
        SourceOptions(open_timeout=timeouts[0], read_timeout=timeouts[1])


QUERIES = st.lists(
    st.tuples(
        st.sampled_from(["seed", "size", "rate", "seconds", "x"]),
        st.one_of(st.text(max_size=12), st.sampled_from(["1e99999999", "nan", "1/0", "-1", "9" * 5000, "1x1", "²"])),
    ).map("=".join),
    max_size=3,
).map(lambda parts: "scenes:?" + "&".join(parts))


@settings(deadline=None, derandomize=True, max_examples=examples(300))
@given(
    st.one_of(
        st.text(max_size=60),
        st.builds("{}:{}".format, st.sampled_from([*NETWORK, *LOCAL, "whip", "x"]), st.text(max_size=40)),
        QUERIES,
        st.sampled_from(
            ["~nobody-of-that-name/x", "a" * 5000, "zz:" + "a" * 5000, "file:" + "a" * 5000, "rtsp://[::1"]
        ),
    ),
)
def test_any_text_is_a_source_or_one_line_error(url: str) -> None:
    try:
        check_url(url)
    except InputError as error:
        assert "\n" not in str(error)
