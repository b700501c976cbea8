"""Image files: decoding, size limits, errors."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamcap.errors import InputError
from streamcap.media.files import image_file
from streamcap.media.files.heif import is_heif
from streamcap.media.files.image_file import check_image, decode_image, has_image_name, list_folder, open_image
from testbed.programs import require_package

GRAY = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (32, 1))


def _tiff(values: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(values).save(content, "TIFF")
    return content.getvalue()


@pytest.mark.parametrize(
    "values",
    [
        GRAY.astype(np.float32) / 255,
        GRAY.astype(np.float32),
        GRAY.astype(np.float32) * 20 - 1000,
        GRAY.astype(np.int32),
        GRAY.astype(np.int32) * 257,
        GRAY.astype(np.int32) * 70000 - 9_000_000,
    ],
    ids=["float-0-1", "float-0-255", "float-any", "int-8-bit", "int-16-bit", "int-any"],
)
def test_deep_gray_tiff_is_scaled(values: np.ndarray) -> None:
    shown = np.asarray(decode_image(_tiff(values))).astype(int)
    assert abs(shown - GRAY[..., None]).max() <= 1


def test_float_tiff_with_nan_is_black_there() -> None:
    values = GRAY.astype(np.float32) / 255
    values[0] = np.nan
    shown = np.asarray(decode_image(_tiff(values)))
    assert (shown[0] == 0).all()
    assert abs(shown[1:].astype(int) - GRAY[1:, :, None]).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_matches_pillow(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    Image.effect_noise((30, 20), 60).convert("RGB").save(content, "PNG", exif=exif)
    with Image.open(io.BytesIO(content.getvalue())) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(np.asarray(decode_image(content.getvalue())), expected)


def _png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and has almost no data."""
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_oversized_image_is_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_header(20000, 10000))
    with pytest.raises(InputError, match=r"bomb.png: an image of 20000x10000 pixels \(200 megapixels\)"):
        check_image(path)
    with pytest.raises(InputError, match="800 MB of memory, the limit is 537 MB"):
        decode_image(path.read_bytes())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "MPO"])
def test_large_image_comes_smaller(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(image_file, "MAX_FULL_PIXELS", 10_000)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    Image.linear_gradient("L").resize((401, 301)).convert("RGB").save(content, kind, exif=exif)
    shown = decode_image(content.getvalue())
    assert shown.size == (76, 101)
    # Dark at the top; EXIF rotates it to the right.
    pixels = np.asarray(shown)
    assert pixels[:, -1].mean() < 20 < 235 < pixels[:, 0].mean()


def test_large_jpeg_is_decoded_at_reduced_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "MAX_FULL_PIXELS", 10_000)
    monkeypatch.setattr(image_file, "MAX_DECODED_BYTES", 4 * 101 * 76)
    plain, progressive = io.BytesIO(), io.BytesIO()
    image = Image.linear_gradient("L").resize((400, 300)).convert("RGB")
    image.save(plain, "JPEG")
    assert decode_image(plain.getvalue()).size == (100, 75)
    # A progressive JPEG keeps all coefficients in memory.
    image.save(progressive, "JPEG", progressive=True)
    with pytest.raises(InputError, match="make it smaller first"):
        decode_image(progressive.getvalue())


def test_large_palette_image_comes_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "MAX_FULL_PIXELS", 10_000)
    content = io.BytesIO()
    Image.new("RGB", (400, 300), (200, 30, 30)).quantize().save(content, "PNG")
    shown = decode_image(content.getvalue())
    assert shown.size == (100, 75)
    assert shown.getpixel((50, 50)) == (200, 30, 30)


def test_image_of_100_megapixels_gives_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("1", (10000, 9500)).save(path)
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(path).size == (5000, 4750)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_command_line_shows_no_python_warning() -> None:
    code = "import warnings, streamcap.cli as cli; cli.app = lambda **_: warnings.warn('raw'); cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_heic_is_read_whole(tmp_path: Path) -> None:
    require_package("pillow_heif")
    import pillow_heif

    video_frame = Image.linear_gradient("L").resize((320, 200)).convert("RGB")
    path = tmp_path / "IMG_0001"
    pillow_heif.from_pillow(video_frame).save(path, quality=95)
    assert has_image_name(path)
    shown = open_image(path)
    assert shown.size == (320, 200)
    assert abs(np.asarray(shown).astype(int) - np.asarray(video_frame).astype(int)).mean() < 4


def test_heic_without_its_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "photo.bin"
    path.write_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64))
    with pytest.raises(InputError, match=r"photo\.bin: a HEIC image; to read it, install the package pillow-heif"):
        check_image(path)


def test_is_heif_tells_avif_apart() -> None:
    assert is_heif(b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic")
    assert is_heif(b"\x00\x00\x00\x14ftypmif1\x00\x00\x00\x00mif1" + bytes(12))
    assert not is_heif(b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00avifmif1miaf")
    assert not is_heif(b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom")


def test_list_folder_tells_files_apart(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name in ("b.HEIC", "a.jpg", "clip.MOV", "notes.txt", ".hidden", "more/c.png"):
        (tmp_path / name).touch()
    found = list_folder(tmp_path)
    assert [path.name for path in found.images] == ["a.jpg", "b.HEIC", "c.png"]
    assert [path.name for path in found.others] == ["clip.MOV", "notes.txt"]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_each_format(kind: str, orientation: int) -> None:
    # Left, right, top and bottom differ.
    shown = Image.linear_gradient("L").resize((64, 48)).convert("RGB")
    shown.paste((200, 0, 0), (0, 0, 20, 48))
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = shown if orientation == 1 else shown.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = io.BytesIO()
    stored.save(content, kind, exif=exif.tobytes(), quality=95)
    read = decode_image(content.getvalue())
    assert read.size == shown.size
    assert abs(np.asarray(read).astype(int) - np.asarray(shown)).mean() < 6


def test_list_folder_names_everything(tmp_path: Path) -> None:
    for name in ("a.jpg", ".hidden.jpg", ".cache/b.jpg", "real/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    found = list_folder(tmp_path)
    assert [path.name for path in found.images] == ["a.jpg", "gone.jpg", "c.jpg"]
    assert {path.name: reason for path, reason in found.unread.items()} == {
        "linked": "a link to a folder; give its path",
        "pipe.jpg": "a pipe or device, not a file",
    }
    assert [path.name for path in found.hidden] == [".cache", ".hidden.jpg"]


def test_damaged_heif_is_named() -> None:
    content = b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf" + bytes(64)
    with pytest.raises(InputError, match="a HEIC or AVIF image that is damaged or cut short"):
        decode_image(content)
