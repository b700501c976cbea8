"""Frames with transparency or high dynamic range in the colors of an ordinary screen."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from av import VideoFrame

Bytes = npt.NDArray[np.uint8]

# Transfer functions of ITU-T H.273.
PQ, HLG = 16, 18
_BT2020 = 9
_WHITE_NITS = 203.0
"""Luminance of diffuse white in HDR video (ITU-R BT.2408)."""
_HLG_PEAK_NITS = 1000.0
_KNEE = 0.8
"""Linear light above this is compressed, so that highlights keep their structure."""
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_STEPS = 4096


def needs_conversion(frame: VideoFrame) -> bool:
    """Whether `displayed` would change the frame."""
    return _has_alpha(frame.format.name) or frame.color_trc in (PQ, HLG)


def pixel_format(frame: VideoFrame) -> str:
    """The format in which `displayed` expects the frame's pixels."""
    return "rgba" if _has_alpha(frame.format.name) else "rgb24"


def displayed(pixels: npt.NDArray[Any], frame: VideoFrame) -> Bytes:
    """RGB of `pixels`: transparency on white, HDR (PQ, HLG) as SDR.

    pixels: uint8 (H, W, 3 or 4), those of `frame` in `pixel_format`.
    """
    if pixels.shape[2] == 4:
        pixels = _on_white(pixels)
    if frame.color_trc in (PQ, HLG):
        return _as_sdr(pixels, int(frame.color_trc), wide=frame.color_primaries == _BT2020)
    return pixels


def _on_white(rgba: Bytes) -> Bytes:
    alpha = rgba[..., 3:]
    # Some writers of 32-bit pixels leave the fourth byte 0.
    if not alpha.any():
        return rgba[..., :3]
    alpha16 = alpha.astype(np.uint16)
    return ((rgba[..., :3] * alpha16 + 255 * (255 - alpha16) + 127) // 255).astype(np.uint8)


def _as_sdr(pixels: Bytes, transfer: int, *, wide: bool) -> Bytes:
    light = _to_light(transfer)[pixels]
    if wide:
        light = light @ _BT2020_TO_BT709.T
    np.clip(light, 0, None, out=light)
    high = light > _KNEE
    light[high] = 1 - (1 - _KNEE) * np.exp((_KNEE - light[high]) / (1 - _KNEE))
    shown: Bytes = _to_srgb()[np.rint(light * (_STEPS - 1)).astype(np.uint16)]
    return shown


@functools.cache
def _to_light(transfer: int) -> npt.NDArray[np.float32]:
    """Linear light of each of 256 code values; diffuse white is 1."""
    code = np.linspace(0, 1, 256)
    if transfer == PQ:
        # SMPTE ST 2084.
        root = code ** (1 / 78.84375)
        nits = 10_000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
    else:
        # ITU-R BT.2100, with the system gamma applied to each channel.
        scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        nits = _HLG_PEAK_NITS * scene**1.2
    return (nits / _WHITE_NITS).astype(np.float32)


@functools.cache
def _to_srgb() -> Bytes:
    light = np.linspace(0, 1, _STEPS)
    code = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    shown: Bytes = np.rint(255 * code).astype(np.uint8)
    return shown


@functools.cache
def _has_alpha(format_name: str) -> bool:
    from av.video.format import VideoFormat

    components: Any = VideoFormat(format_name).components
    return any(component.is_alpha for component in components)
