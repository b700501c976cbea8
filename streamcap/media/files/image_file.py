"""Picture files and folders of them, and frames as images: upright, RGB, within a bound on memory."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
from av import VideoFrame
from PIL import ExifTags, Image, UnidentifiedImageError

from streamcap.errors import InputError
from streamcap.media.files.heif import HEIF_SUFFIXES, is_heif, is_image_container, register_heif
from streamcap.media.orientation import SQUARE, show

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".tga"}
    | HEIF_SUFFIXES
)
MAX_DECODED_BYTES = 512 * 1024 * 1024
"""Memory that decoding one image may take."""
MAX_FULL_PIXELS = 50_000_000
"""Larger images are given at a half, a quarter, ... of their size. No model sees more than a fraction of this."""
# Pillow's own copy and what the codec's library holds beside it.
_COPIES = {"WEBP": 2, "AVIF": 2, "HEIF": 2, "JPEG2000": 4}
_HEADER_BYTES = 64
_MEGA = 1_000_000

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for a damaged file."""
# Values of EXIF's orientation tag.
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's own limit is global; it is lifted while a header is read, and ours is checked instead.
_pillow_limit = threading.Lock()


@dataclass(frozen=True, slots=True)
class FolderContents:
    """The files of a folder, hidden ones left out."""

    images: list[Path]
    others: list[Path] = field(default_factory=list)
    """Files whose suffix is none of an image."""


def list_folder(folder: Path) -> FolderContents:
    """Every file in `folder` and the folders in it, told apart by suffix, in order of path; hidden ones left out.

    Raises InputError where there is no image.
    """
    images: list[Path] = []
    others: list[Path] = []
    for where, inner, names in os.walk(folder):
        # Changed in place, so that hidden folders are not walked.
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                is_image = Path(name).suffix.lower() in IMAGE_SUFFIXES
                (images if is_image else others).append(Path(where) / name)
    if not images:
        raise InputError(f"{folder}: there are no images in this folder")
    return FolderContents(sorted(images), sorted(others))


def find_images(folder: Path) -> list[Path]:
    """The images of `list_folder`. Raises InputError where there is none."""
    return list_folder(folder).images


def check_image(path: Path) -> None:
    """Read the header of an image file. Raises InputError where it is none, or too large to be decoded."""
    with _open(path):
        pass


def has_image_name(path: Path) -> bool:
    """Whether a file is an image by its suffix; of other names, whether libav would take its tiles for a video."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    return path.is_file() and is_image_container(_first_bytes(path))


def open_image(path: Path) -> Image.Image:
    """The image as a person sees it: RGB, turned as its EXIF says, transparent parts on white; of several the first.

    One of more than MAX_FULL_PIXELS comes at a half, a quarter, ... of its size. Raises InputError where the file is
    missing, no image, damaged, or would take more than MAX_DECODED_BYTES.
    """
    with _open(path) as image:
        try:
            return _decode(image)
        except _DAMAGE as error:
            raise InputError(f"{path}: the image is damaged: {error}") from None


def decode_image(content: bytes) -> Image.Image:
    """The content of an image file as `open_image` gives it. Raises InputError that says what is wrong with it."""
    if not content:
        raise InputError("the file is empty")
    try:
        with _identify(io.BytesIO(content)) as image:
            return _decode(image)
    except UnidentifiedImageError:
        raise InputError("not an image that can be read") from None
    except _DAMAGE as error:
        raise InputError(f"the image is damaged: {error}") from None


def upright(frame: VideoFrame, aspect: Fraction = SQUARE) -> Image.Image:
    """A frame at its full size: RGB, turned and flipped as its display matrix asks, with square pixels."""
    return Image.fromarray(show(frame, aspect))


@contextmanager
def identify_image(path: Path) -> Iterator[Image.Image]:
    """Pillow's own view of an image file, not yet decoded. Raises InputError as `check_image` does."""
    with _open(path) as image:
        yield image


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: transparent parts on white, gray of more than 8 bits scaled to what it shows."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit gray to 8 bits instead of scaling it.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("F", "I"):
        return Image.fromarray(_gray(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _open(path: Path) -> Image.Image:
    try:
        return _identify(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except UnidentifiedImageError:
        what = "the file is empty" if path.stat().st_size == 0 else "not an image that can be read"
        raise InputError(f"{path}: {what}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise InputError(f"{path}: cannot be opened: {error}") from None


def _identify(source: Path | IO[bytes]) -> Image.Image:
    """The image with its header read and its decoded size within the bound."""
    if is_heif(_first_bytes(source)):
        register_heif()
    with _pillow_limit:
        kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(source)
        finally:
            Image.MAX_IMAGE_PIXELS = kept
    try:
        _shrink(image)
    except InputError:
        image.close()
        raise
    return image


def _first_bytes(source: Path | IO[bytes]) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(_HEADER_BYTES)
    first = source.read(_HEADER_BYTES)
    source.seek(0)
    return first


def _shrink(image: Image.Image) -> None:
    """Ask the decoder for a smaller image where it can give one. Raises InputError where what it gives is too large."""
    width, height = image.size
    factor = _reduction(image.size)
    if factor > 1:
        # JPEG alone can: by 2, 4 and 8.
        image.draft(None, (max(1, width // factor), max(1, height // factor)))
    size = image.size[0] * image.size[1] * _bytes_a_pixel(image.mode) * _COPIES.get(image.format or "", 1)
    if image.format in ("JPEG", "MPO") and image.info.get("progressive"):
        size += _coefficient_bytes(image, width * height)
    if size > MAX_DECODED_BYTES:
        raise InputError(
            f"an image of {width}x{height} pixels ({width * height / _MEGA:.0f} megapixels) would take "
            f"{size / _MEGA:.0f} MB of memory, the limit is {MAX_DECODED_BYTES / _MEGA:.0f} MB; make it smaller first"
        )


def _reduction(size: tuple[int, int]) -> int:
    """The power of two by which an image of that size has to shrink."""
    factor = 1
    while size[0] * size[1] > MAX_FULL_PIXELS * factor * factor:
        factor *= 2
    return factor


def _coefficient_bytes(image: Image.Image, pixels: int) -> int:
    """What libjpeg holds of a progressive JPEG: two bytes for each sample, whatever size it is decoded at."""
    sampling = [across * down for _, across, down, _ in getattr(image, "layer", [])]
    return round(2 * pixels * sum(sampling) / max(sampling)) if sampling else 0


def _bytes_a_pixel(mode: str) -> int:
    """As Pillow keeps them."""
    if mode in ("1", "L", "P"):
        return 1
    return 2 if mode.startswith("I;16") else 4


def _decode(image: Image.Image) -> Image.Image:
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    image.load()
    factor = _reduction(image.size)
    # Colors of a palette cannot be averaged; every so many pixels one is taken.
    small = image if factor == 1 else _every(image, factor) if image.mode in ("P", "1") else image.reduce(factor)
    rgb = to_rgb(small)
    transpose = _TRANSPOSES.get(orientation) if isinstance(orientation, int) else None
    return (rgb.copy() if rgb is image else rgb) if transpose is None else rgb.transpose(transpose)


def _every(image: Image.Image, factor: int) -> Image.Image:
    size = -(-image.width // factor), -(-image.height // factor)
    return image.resize(size, Image.Resampling.NEAREST)


def _gray(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32 | np.int32]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Numbers as gray: of 0 to 1, 0 to 255 and 0 to 65535 where they lie within, else from their lowest to highest.

    What is not a number is black.
    """
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, np.uint8)
    low, high = float(values[finite].min()), float(values[finite].max())
    whole = values.dtype.kind == "i"
    top = next((top for top in (1.0, 255.0, 65535.0) if high <= top and not (whole and top == 1.0)), None)
    if low >= 0 and top is not None:
        low, high = 0.0, top
    scaled = (np.where(finite, values, low) - low) * (255 / (high - low if high > low else 1.0))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
