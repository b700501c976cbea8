"""Chooses the video stream of a file or network stream, for all commands."""

from __future__ import annotations

from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream


def moving_videos(container: InputContainer) -> list[VideoStream]:
    """The video streams, without cover images."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def best_video(container: InputContainer) -> VideoStream | None:
    """The stream that libav ranks first (av_find_best_stream), as players do; None if there is no video."""
    moving = moving_videos(container)
    best = container.streams.best("video")
    if isinstance(best, VideoStream) and best in moving:
        return best
    return moving[0] if moving else None


def describe_choice(container: InputContainer, chosen: VideoStream) -> str | None:
    """One line that names the chosen stream and the others; None if there is only one."""
    moving = moving_videos(container)
    if len(moving) < 2:
        return None
    others = ", ".join(_describe(stream) for stream in moving if stream.index != chosen.index)
    return f"{len(moving)} videos in it; taking {_describe(chosen)}, not {others}"


def _describe(stream: VideoStream) -> str:
    context = stream.codec_context
    codec = "an unknown codec" if context is None else context.name
    return f"stream {stream.index} ({codec} {stream.width}x{stream.height})"
