"""Hardware decoders, through libav's hwaccel."""

from __future__ import annotations

import logging
from functools import cache
from typing import get_args

import av
from av.codec import Codec
from av.codec.hwaccel import HWAccel, hwdevices_available

from streamcap.media.demand import Hwaccel

log = logging.getLogger(__name__)

_DEVICES = [name for name in get_args(Hwaccel) if name not in ("auto", "none")]
# Most cameras send it: a device that cannot decode it is of no use.
_CODEC = "h264"


def open_hwaccel(name: Hwaccel) -> HWAccel | None:
    """What `av.open` takes to decode on the device called `name`; None: in software.

    auto: the first device that works. Streams whose codec the device does not know are decoded in software.
    """
    device = _find(name)
    return None if device is None else HWAccel(device, allow_software_fallback=True)


@cache
def _find(name: Hwaccel) -> str | None:
    """The device to use. What was found is logged once."""
    if name == "none":
        return None
    compiled = hwdevices_available()
    wanted = [kind for kind in _DEVICES if kind in compiled] if name == "auto" else [name]
    faults = []
    for kind in wanted:
        fault = _fault(kind) if kind in compiled else "this PyAV was built without it"
        if fault is None:
            log.info("hwaccel: video is decoded on %s", kind)
            return kind
        faults.append(f"{kind}: {fault}")
    level = logging.INFO if name == "auto" else logging.WARNING
    log.log(level, "hwaccel: video is decoded in software (%s)", "; ".join(faults) or "this PyAV knows no device")
    return None


def _fault(kind: str) -> str | None:
    """Why `kind` cannot decode here; None: it can."""
    try:
        HWAccel(kind).create(Codec(_CODEC, "r"))
    except (av.FFmpegError, RuntimeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
