"""Checks the installed wheels: `python -I wheel_check.py REPOSITORY`, run in an empty directory."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw

BIN = Path(sys.executable).parent
FINAL = re.compile(r"\d\d:\d\d:\d\d  scenes  \w+ \w+")
TIMEOUT_S = 300
"""Timeout of each step."""
WITHOUT_COMPILER = {**os.environ, "PATH": str(BIN)}
"""The environment of every step but one: the wheel brings its kernels."""
CAPTION_SCENES = """
import itertools, json
from streamcap.captioner import load_captioner
from streamcap.captioner.kernels.loading import describe_kernels, load_library
from streamcap.media.scenes.draw import draw
from streamcap.media.scenes.scene import every_scene
images = [draw(scene, 1.0, 640, 360) for scene in itertools.islice(every_scene(), 0, None, 50)][:24]
results = {"kernels": {name: describe_kernels(name) for name in ("fp32", "int8")}}
for precision in ("fp32", "int8"):
    results[precision] = [result.tokens for result in load_captioner("mini", "cpu", precision).caption(images)]
    assert load_library(precision) is not None
print(json.dumps(results))
"""
"""Prints which kernels run, and the tokens of scenes by precision."""
PACKAGES = {"streamcap-live": ("", "streamcap"), "streamcap-live-client": ("clients/python", "streamcap_client")}


def check_contents(repository: Path) -> None:
    """The wheels contain every file of the packages, including kernel sources, pages and weights."""
    for distribution, (folder, package) in PACKAGES.items():
        source = repository / folder
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        assert Path(spec.origin).is_relative_to(sys.prefix), f"{package} comes from {spec.origin}"
        installed = {str(path) for path in importlib.metadata.files(distribution) or ()}
        expected = {
            str(path.relative_to(source))
            for path in (source / package).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        assert expected, source
        assert expected <= installed, f"{distribution} lacks {sorted(expected - installed)}"
        if package == "streamcap":
            suffixes = {Path(name).suffix for name in installed}
            assert {".c", ".h", ".html", ".js", ".css", ".safetensors", ".typed"} <= suffixes, suffixes
        print(f"{distribution}: all {len(expected)} files are installed")


@contextlib.contextmanager
def killed_after(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """Kill `process` after `seconds`, or when the block ends; a read of its output then ends too."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.kill()
        process.wait()


def check_service() -> None:
    """`streamcap serve` captions the built-in scenes, and `streamcap-watch` prints the first caption."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    log = Path("serve.log")
    with log.open("w") as output:
        service = subprocess.Popen(
            [BIN / "streamcap", "serve", "scenes:", "--port", str(port)],
            env=WITHOUT_COMPILER, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    with killed_after(service, 2 * TIMEOUT_S):
        viewer = subprocess.Popen(
            [BIN / "streamcap-watch", f"http://127.0.0.1:{port}", "--stream", "scenes"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with killed_after(viewer, TIMEOUT_S):
            assert viewer.stdout is not None
            caption = next((line.strip() for line in viewer.stdout if FINAL.match(line)), None)
        assert caption is not None, f"no caption within {TIMEOUT_S} s:\n{log.read_text()}"
        print(f"streamcap serve: first caption after {time.monotonic() - start:.1f} s: {caption}")
        service.send_signal(signal.SIGINT)
        assert service.wait(TIMEOUT_S) == 0, log.read_text()


def check_caption() -> None:
    """`streamcap caption` captions an image."""
    image = Image.new("RGB", (320, 240), (70, 160, 60))
    ImageDraw.Draw(image).ellipse((110, 110, 210, 210), fill=(220, 20, 20))
    image.save("ball.png")
    start = time.monotonic()
    command = [BIN / "streamcap", "caption", "ball.png", "--device", "cpu"]
    done = subprocess.run(command, env=WITHOUT_COMPILER, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0 and len(done.stdout.split()) >= 3, (done.returncode, done.stdout, done.stderr)
    print(f"streamcap caption: done after {time.monotonic() - start:.1f} s: {done.stdout.strip()}")


def check_kernels() -> None:
    """Without a compiler the wheel's kernels run, and give the tokens of kernels compiled here."""
    wheels = importlib.metadata.distribution("streamcap-live").read_text("WHEEL")
    assert wheels is not None
    (tag,) = re.findall(r"^Tag: (.*)$", wheels, re.M)
    assert tag.startswith("py3-none-manylinux_"), tag
    from streamcap.captioner.kernels import build

    levels = build.LEVELS[platform.machine()]
    expected = {build.library_name(precision, level) for level in levels for precision in level.precisions}
    assert {path.name for path in build.READY_BUILT.iterdir()} == expected
    assert shutil.which("cc", path=WITHOUT_COMPILER["PATH"]) is None
    command = [sys.executable, "-I", "-c", CAPTION_SCENES]
    captions = {}
    for mode, environment in {"auto": WITHOUT_COMPILER, "compile": dict(os.environ)}.items():
        done = subprocess.run(
            command, env={**environment, "STREAMCAP_KERNELS": mode}, capture_output=True, text=True, check=False,
            timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        captions[mode] = json.loads(done.stdout)
        print(f"kernels: {captions[mode].pop('kernels')}")
        compiled = list(Path(os.environ["STREAMCAP_CACHE"]).rglob("*.so"))
        assert len(compiled) == (0 if mode == "auto" else 2), compiled
    assert captions["auto"] == captions["compile"], captions
    listed = subprocess.run([BIN / "streamcap", "models"], capture_output=True, text=True, check=True).stdout
    assert "CPU kernels: fp32 ready-built (" in listed and "int8 ready-built (" in listed, listed
    print(f"{tag}: the same {sum(map(len, captions['auto'].values()))} captions on both")


if __name__ == "__main__":
    check_contents(Path(sys.argv[1]))
    check_service()
    check_caption()
    check_kernels()
