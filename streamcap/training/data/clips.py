"""Decode the images and clips of a corpus into the input size of a vision encoder."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from streamcap.captioner.preprocess import fit_images
from streamcap.errors import InputError
from streamcap.image_spec import ImageSpec
from streamcap.media.containers import FILE_OPTIONS
from streamcap.media.files.image_file import decode_image
from streamcap.media.files.video_stream import best_video
from streamcap.media.orientation import sample_aspect, show

Pixels = npt.NDArray[np.uint8]


class UnreadableError(Exception):
    """An image or clip cannot be decoded; the message gives the reason."""


def read_image(content: bytes, spec: ImageSpec) -> Pixels:
    """Decode an encoded image as `streamcap caption` does: uint8 (H, W, 3) of the spec's size.

    Raises UnreadableError.
    """
    try:
        image = decode_image(content)
    except InputError as error:
        raise UnreadableError(str(error).splitlines()[0]) from None
    fitted: Pixels = fit_images([image], spec)[0]
    return fitted


def read_clip(path: Path, count: int, spec: ImageSpec) -> Pixels:
    """uint8 (count, H, W, 3): the middle frame of each of `count` equal parts of the clip, in order.

    Frames repeat if the clip has fewer than `count`. Raises UnreadableError.
    """
    try:
        with av.open(f"file:{path}", options=FILE_OPTIONS) as container:
            stream = best_video(container)
            if stream is None:
                raise UnreadableError("holds no video stream")
            total = sum(packet.size > 0 for packet in container.demux(stream))
        if total == 0:
            raise UnreadableError("holds no frames")
        requested = [min(total - 1, int((part + 0.5) * total / count)) for part in range(count)]
        last = requested[-1]
        decoded: dict[int, Pixels] = {}
        with av.open(f"file:{path}", options=FILE_OPTIONS) as container:
            stream = best_video(container)
            if stream is None:
                raise UnreadableError("holds no video stream")
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number in requested:
                    decoded[number] = fit_images([show(frame, sample_aspect(stream))], spec)[0]
                if number >= last:
                    break
    except (av.FFmpegError, OSError) as error:
        raise UnreadableError(str(error).splitlines()[0]) from None
    if not decoded:
        raise UnreadableError("no frame can be decoded")
    # A clip with a damaged end decodes to fewer frames than were counted: repeat the last good one.
    end = max(decoded)
    return np.stack([decoded[min(number, end)] for number in requested])
