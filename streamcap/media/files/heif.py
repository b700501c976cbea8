"""HEIC and HEIF (photos of phones) through `pillow-heif`, imported on first use."""

from __future__ import annotations

from pathlib import Path

from streamcap.errors import InputError

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
# Brands of ISO/IEC 23008-12; AVIF shares the container, and Pillow reads it.
_HEVC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_ANY_BRANDS = frozenset({b"mif1", b"msf1", b"mif2"})
_SEQUENCE_BRANDS = frozenset({b"msf1", b"hevc", b"hevx", b"avis"})
_AV1_BRANDS = frozenset({b"avif", b"avis"})


def is_heif(first_bytes: bytes) -> bool:
    """Whether `first_bytes` (at least 32) are the start of a HEIF file, but not of AVIF."""
    brands = _brands(first_bytes)
    return bool(brands & _HEVC_BRANDS) or (bool(brands & _ANY_BRANDS) and not brands & _AV1_BRANDS)


def is_image_container(first_bytes: bytes) -> bool:
    """Whether `first_bytes` are the start of a HEIF or AVIF file, whose tiles libav would open as a video."""
    return bool(_brands(first_bytes) & (_HEVC_BRANDS | _ANY_BRANDS | _AV1_BRANDS))


def is_still_container(path: Path) -> bool:
    """Whether a file is a HEIF or AVIF image, not a sequence; libav would play its first tile. A pipe is not read."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        first = file.read(64)
    return is_image_container(first) and not _brands(first) & _SEQUENCE_BRANDS


def _brands(first_bytes: bytes) -> frozenset[bytes]:
    if first_bytes[4:8] != b"ftyp":
        return frozenset()
    length = min(int.from_bytes(first_bytes[:4], "big"), len(first_bytes))
    return frozenset({first_bytes[8:12], *(first_bytes[at : at + 4] for at in range(16, length - 3, 4))})


def register_heif() -> None:
    """Register HEIF with Pillow. Raises InputError if `pillow-heif` is not installed."""
    try:
        import pillow_heif
    except ImportError:
        raise InputError("a HEIC image; to read it, install the package pillow-heif") from None
    pillow_heif.register_heif_opener()
