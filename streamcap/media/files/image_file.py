"""Image files, folders of them, and frames as images: upright, RGB, with bounded memory."""

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
from streamcap.media.files.gray import scale_gray
from streamcap.media.files.heif import HEIF_SUFFIXES, is_heif, is_image_container, register_heif
from streamcap.media.files.tiff import check_tiff, declared_gray, describe_tiff
from streamcap.media.orientation import SQUARE, show

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".tga"}
    | HEIF_SUFFIXES
)
MAX_DECODED_BYTES = 512 * 1024 * 1024
"""Limit of the memory for decoding one image."""
MAX_FULL_PIXELS = 50_000_000
"""Larger images are reduced to a half, a quarter, ... of their size; models need far less."""
# Copies of the image in Pillow and in the codec library.
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
# Pillow's own limit is global. It is disabled while a header is read; ours is checked instead.
_pillow_limit = threading.Lock()


@dataclass(frozen=True, slots=True)
class FolderContents:
    """What is in a folder and its subfolders."""

    images: list[Path]
    others: list[Path] = field(default_factory=list)
    """Files without an image suffix."""
    unread: dict[Path, str] = field(default_factory=dict)
    """What was not looked at → reason: links to folders, folders without permission, pipes and devices."""
    hidden: list[Path] = field(default_factory=list)
    """Hidden files and folders, whose names begin with a dot."""


def list_folder(folder: Path) -> FolderContents:
    """All files in `folder` and its subfolders, sorted by path. Raises InputError if there is no image."""
    images: list[Path] = []
    others: list[Path] = []
    unread: dict[Path, str] = {}
    hidden: list[Path] = []

    def on_error(error: OSError) -> None:
        unread[Path(error.filename)] = f"a folder that cannot be read: {error.strerror}"

    for parent, subfolders, names in os.walk(folder, onerror=on_error):
        hidden += (Path(parent) / name for name in (*subfolders, *names) if name.startswith("."))
        # In place, so that os.walk skips hidden folders.
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        links = [Path(parent) / name for name in subfolders if (Path(parent) / name).is_symlink()]
        unread |= dict.fromkeys(links, "a link to a folder; give its path")
        for path in (Path(parent) / name for name in names if not name.startswith(".")):
            if path.exists() and not path.is_file():
                # To open a pipe could block for ever.
                unread[path] = "a pipe or device, not a file"
            else:
                (images if path.suffix.lower() in IMAGE_SUFFIXES else others).append(path)
    if not images:
        raise InputError(f"{folder}: there are no images in this folder")
    return FolderContents(sorted(images), sorted(others), unread, sorted(hidden))


def check_image(path: Path) -> None:
    """Read the header of an image file. Raises InputError if it is not an image or too large."""
    with _open(path):
        pass


def has_image_name(path: Path) -> bool:
    """Whether a file is an image: by its suffix, or a HEIF or AVIF container under another name."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    return path.is_file() and is_image_container(_first_bytes(path))


def open_image(path: Path) -> Image.Image:
    """The image as displayed: RGB, rotated by its EXIF orientation, transparency on white; the first of several frames.

    An image of more than MAX_FULL_PIXELS is reduced to a half, a quarter, ... of its size. Raises InputError if the
    file is missing, not an image, damaged, or would take more than MAX_DECODED_BYTES.
    """
    with _open(path) as image:
        try:
            return _decode(image)
        except _DAMAGE as error:
            raise InputError(f"{path}: the image is damaged: {error}") from None


def decode_image(content: bytes) -> Image.Image:
    """Decode the content of an image file like `open_image`. Raises InputError with the reason."""
    if not content:
        raise InputError("the file is empty")
    try:
        with _identify(io.BytesIO(content)) as image:
            return _decode(image)
    except UnidentifiedImageError:
        raise InputError(_unreadable(io.BytesIO(content))) from None
    except _DAMAGE as error:
        raise InputError(f"the image is damaged: {error}") from None


def upright(frame: VideoFrame, aspect: Fraction = SQUARE) -> Image.Image:
    """A frame at full size: RGB, rotated and flipped by its display matrix, with square pixels."""
    return Image.fromarray(show(frame, aspect))


@contextmanager
def identify_image(path: Path) -> Iterator[Image.Image]:
    """The Pillow image of a file, not decoded yet. Raises InputError like `check_image`."""
    with _open(path) as image:
        yield image


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: transparency on white, gray of more than 8 bits scaled to 8."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit gray to 8 bits instead of scaling it.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("F", "I"):
        return Image.fromarray(scale_gray(np.asarray(image))).convert("RGB")
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
        raise InputError(f"{path}: {_unreadable(path)}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise InputError(f"{path}: cannot be opened: {error}") from None


def _identify(source: Path | IO[bytes]) -> Image.Image:
    """The image with its header read and its decoded size checked."""
    if is_heif(_first_bytes(source)):
        register_heif()
    with _pillow_limit:
        pillow_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(source)
        finally:
            Image.MAX_IMAGE_PIXELS = pillow_limit
    try:
        if image.format == "TIFF":
            check_tiff(image)
        _shrink(image)
    except InputError:
        image.close()
        raise
    return image


def _unreadable(source: Path | IO[bytes]) -> str:
    """Why Pillow does not know this file."""
    first = _first_bytes(source)
    if not first:
        return "the file is empty"
    if is_image_container(first):
        return "a HEIC or AVIF image that is damaged or cut short"
    return describe_tiff(source) or "not an image that can be read"


def _first_bytes(source: Path | IO[bytes]) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(_HEADER_BYTES)
    first = source.read(_HEADER_BYTES)
    source.seek(0)
    return first


def _shrink(image: Image.Image) -> None:
    """Reduce the image in the decoder if it can. Raises InputError if the decoded image is too large."""
    width, height = image.size
    factor = _reduction(image.size)
    if factor > 1:
        # Only JPEG can: by 2, 4 and 8.
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
    """The power of two by which to reduce an image of `size`."""
    factor = 1
    while size[0] * size[1] > MAX_FULL_PIXELS * factor * factor:
        factor *= 2
    return factor


def _coefficient_bytes(image: Image.Image, pixels: int) -> int:
    """Memory of libjpeg for a progressive JPEG: two bytes a sample, at any decoded size."""
    sampling = [across * down for _, across, down, _ in getattr(image, "layer", [])]
    return round(2 * pixels * sum(sampling) / max(sampling)) if sampling else 0


def _bytes_a_pixel(mode: str) -> int:
    """In the memory of Pillow."""
    if mode in ("1", "L", "P"):
        return 1
    return 2 if mode.startswith("I;16") else 4


def _decode(image: Image.Image) -> Image.Image:
    image.load()
    # Read now, because Pillow turns a TIFF while it loads it and removes the tag.
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    full = declared_gray(image) if image.format == "TIFF" else image
    factor = _reduction(full.size)
    # Palette colors cannot be averaged, so pixels are skipped.
    small = full if factor == 1 else _every(full, factor) if full.mode in ("P", "1") else full.reduce(factor)
    rgb = to_rgb(small)
    transpose = _TRANSPOSES.get(orientation) if isinstance(orientation, int) else None
    return (rgb.copy() if rgb is image else rgb) if transpose is None else rgb.transpose(transpose)


def _every(image: Image.Image, factor: int) -> Image.Image:
    size = -(-image.width // factor), -(-image.height // factor)
    return image.resize(size, Image.Resampling.NEAREST)
