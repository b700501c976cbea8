"""Picture files and folders of them, and frames as images: upright, RGB."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from av import VideoFrame
from PIL import Image, ImageOps, UnidentifiedImageError

from streamcap.errors import InputError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".tga"}
)


def find_images(folder: Path) -> list[Path]:
    """Every image file in `folder` and the folders in it, by their suffix, in order of path; hidden ones left out.

    Raises InputError where there is none.
    """
    found: list[Path] = []
    for where, inner, names in os.walk(folder):
        # Changed in place, so that hidden folders are not walked.
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [
            Path(where) / name
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    if not found:
        raise InputError(f"{folder}: there are no images in this folder")
    return sorted(found)


_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for a damaged file."""


def check_image(path: Path) -> None:
    """Read the header of an image file. Raises InputError where it is none."""
    with _open(path):
        pass


def open_image(path: Path) -> Image.Image:
    """The image as a person sees it: RGB, turned as its EXIF says, transparent parts on white; of several the first.

    Raises InputError where the file is missing, no image, or damaged.
    """
    with _open(path) as image:
        try:
            return _rgb(ImageOps.exif_transpose(image))
        except _DAMAGE as error:
            raise InputError(f"{path}: the image is damaged: {error}") from None


def decode_image(content: bytes) -> Image.Image:
    """The content of an image file as `open_image` gives it. Raises InputError that says what is wrong with it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return _rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise InputError("not an image that can be read" if content else "the file is empty") from None
    except _DAMAGE as error:
        raise InputError(f"the image is damaged: {error}") from None


def upright(frame: VideoFrame) -> Image.Image:
    """A frame at its full size, RGB, turned as its display matrix asks."""
    turns = round(frame.rotation / 90) % 4
    pixels = frame.to_ndarray(format="rgb24")
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, turns)))


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except UnidentifiedImageError:
        what = "the file is empty" if path.stat().st_size == 0 else "not an image that can be read"
        raise InputError(f"{path}: {what}") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: an image of too many pixels; make it smaller first") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened: {error}") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow clips 16-bit grey to 8 bits instead of scaling it.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
