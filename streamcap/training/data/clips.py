"""Pixels of a corpus's images and clips, as a vision encoder wants them."""

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
    """An image or clip that cannot be decoded; the message says why."""


def read_picture(content: bytes, spec: ImageSpec) -> Pixels:
    """(H, W, 3) of the spec's size, of the image as `streamcap caption` sees it. Raises UnreadableError."""
    try:
        image = decode_image(content)
    except InputError as error:
        raise UnreadableError(str(error).splitlines()[0]) from None
    fitted: Pixels = fit_images([image], spec)[0]
    return fitted


def read_clip(path: Path, count: int, spec: ImageSpec) -> Pixels:
    """(count, H, W, 3): the middles of `count` equal parts of the clip, in order.

    A clip of fewer frames gives some of them more than once. Raises UnreadableError.
    """
    try:
        with av.open(f"file:{path}", options=FILE_OPTIONS) as container:
            stream = best_video(container)
            if stream is None:
                raise UnreadableError("no video in it")
            total = sum(packet.size > 0 for packet in container.demux(stream))
        if total == 0:
            raise UnreadableError("no frame in it")
        wanted = [min(total - 1, int((part + 0.5) * total / count)) for part in range(count)]
        last = wanted[-1]
        chosen: dict[int, Pixels] = {}
        with av.open(f"file:{path}", options=FILE_OPTIONS) as container:
            stream = best_video(container)
            if stream is None:
                raise UnreadableError("no video in it")
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    chosen[number] = fit_images([show(frame, sample_aspect(stream))], spec)[0]
                if number >= last:
                    break
    except (av.FFmpegError, OSError) as error:
        raise UnreadableError(str(error).splitlines()[0]) from None
    if not chosen:
        raise UnreadableError("no frame of it decodes")
    # A damaged end gives fewer frames than were counted: the last good one stands in.
    end = max(chosen)
    return np.stack([chosen[min(number, end)] for number in wanted])
