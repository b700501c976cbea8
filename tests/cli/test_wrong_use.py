"""Wrong use and bad input: exit status 2 and one line on stderr."""

from __future__ import annotations

import inspect
import logging
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streamcap.cli import main
from streamcap.cli.service.serve import serve
from streamcap.engine.change_gate import DEFAULT_THRESHOLD

pytestmark = pytest.mark.slow

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["streamcap", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "bogus"),
        (["serve", "--nope"], "--nope"),
        (["serve", "--port", "x"], "--port"),
        (["serve", "--port", "70000"], "--port 70000"),
        (["serve", "--every", "0"], "streamcap: --every 0"),
        (["serve", "--threads", "99999999999999999999"], "--threads"),
        (["serve", "--change-threshold", "3"], "--change-threshold 3"),
        (["serve", "--refresh-interval", "0"], "--refresh-interval 0"),
        (["serve", "--refresh-interval", "nan"], "--refresh-interval nan"),
        (["serve", "--subtitle-window", "nan"], "--subtitle-window nan"),
        (["serve", "--clip-seconds", "inf"], "--clip-seconds inf"),
        (["serve", "--max-age", "0"], "--max-age 0"),
        (["serve", "--read-timeout", "nan"], "--read-timeout nan"),
        (["serve", "--interim-rate", "-1"], "--interim-rate"),
        (["serve", "--fit", "zoom"], "--fit"),
        (["serve", "--log-level", "loud"], "'--log-level': 'loud' is not one of"),
        (["serve", "--stall-after", "inf"], "--stall-after inf"),
        (["serve", "--replay-events", "0"], "--replay-events 0"),
        (["serve", "--min-confidence", "1.5"], "--min-confidence 1.5"),
        (["serve", "--root-path", "cams/"], "--root-path 'cams/'"),
        (["serve", "--root-path", "/streams"], "--root-path '/streams'"),
        (["serve", "--tls-cert", "cert.pem"], "--tls-cert and --tls-key"),
        (["serve", "--tls-cert", "none.pem", "--tls-key", "none.pem"], "--tls-cert none.pem"),
        (["serve", f"{'x' * 300}=scenes:"], "stream name"),
        (["serve", f"/{'x' * 300}"], "name too long"),
        (["serve", "~nobody-at-all/film.mp4"], "~nobody-at-all"),
        (["serve", "--port", "0", "--model", "~nobody-at-all/model.pt"], "~nobody-at-all"),
        (["caption", ""], "empty PATH"),
        (["serve", "--host", "0.0.0.0"], "--host 0.0.0.0"),
        (["serve", "gopher://cam/x"], "gopher"),
        (["serve", "rtsp://"], "no host; write it as rtsp://HOST/stream\n"),
        (["serve", "/nowhere/film.mp4"], "no such file"),
        (["serve", "../x=scenes:"], "stream name"),
        (["serve", "a b=scenes:"], "stream name"),
        (["serve", "a=scenes:", "a=scenes:?seed=2"], "two streams are named a"),
        (["serve", "--port", "0", "--model", "nope"], "nope"),
        (["serve", "--port", "0", "--device", "abacus"], "abacus"),
        (["serve", "--port", "0", "--precision", "fp7"], "fp7"),
        (["serve", "--out", "/proc/streamcap"], "--out"),
        (["serve", "--token", ""], "--token"),
        (["serve", "--origin", "example.org"], "--origin"),
        (["serve", "--origin", "https://example.org/page"], "--origin"),
        (["serve", "--token", "a", "--view-token", "a"], "--view-token: the same as --token"),
        (["serve", "--ice-server", "turn:turn.example.org"], "turn:USER:PASSWORD@HOST"),
    ],
)
def test_invalid_arguments_are_one_line(run: Run, arguments: list[str], says: str) -> None:
    status, out, err = run(*arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("streamcap: ") and err.count("\n") == 1, err
    assert says in err


@pytest.mark.parametrize(("arguments", "helps"), [([], "serve"), (["cluster"], "status")])
def test_missing_command_prints_help(run: Run, arguments: list[str], helps: str) -> None:
    status, out, err = run(*arguments)
    assert status == 2 and helps in out + err
    assert "streamcap: missing command; see `" in err


def test_password_in_invalid_url_is_hidden(run: Run) -> None:
    _, _, err = run("serve", "gopher://admin:hunter2@cam/x")
    assert "gopher" in err and "hunter2" not in err


def test_password_is_absent_from_logged_traceback() -> None:
    from streamcap.cli.service.log_format import TextFormatter

    try:
        raise OSError("Input/output error: 'rtsp://admin:hunter2@cam/live'")
    except OSError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "the source failed", None, sys.exc_info())
    shown = TextFormatter(debug=False).format(record)
    assert "Traceback" in shown and "rtsp://admin:***@cam/live" in shown and "hunter2" not in shown


def test_port_in_use_is_refused_before_model_loads(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, _, err = run("serve", "--port", str(taken.getsockname()[1]), "--model", "/nowhere")
    assert status == 2 and "cannot listen" in err and "--port" in err


def test_help_and_version(run: Run) -> None:
    assert run("--version")[:2] == (0, f"streamcap {__import__('streamcap').__version__}\n")
    status, out, _ = run("serve", "--help")
    assert status == 0 and "--every" in out


def test_change_threshold_default() -> None:
    assert inspect.signature(serve).parameters["change_threshold"].default == DEFAULT_THRESHOLD


def test_serve_help_is_grouped(run: Run) -> None:
    _, out, _ = run("serve", "--help")
    for panel in ("Streams", "Model", "Captions and feed", "Caption files", "Server", "Security", "Output"):
        assert f"─ {panel} ─" in out


def test_file_name_with_equals_sign(tmp_path: Path) -> None:
    from streamcap.cli.service.serve import split_name

    path = tmp_path / "a=b.mp4"
    path.write_bytes(b"")
    assert split_name(str(path)) == (None, str(path))
    assert split_name("door=rtsp://cam/x?a=b") == ("door", "rtsp://cam/x?a=b")
    assert split_name("rtsp://cam/x?a=b") == (None, "rtsp://cam/x?a=b")
    assert split_name("scenes:?seed=3") == (None, "scenes:?seed=3")
