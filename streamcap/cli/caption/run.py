"""`CaptionRun`: captions the files of `streamcap caption` and writes the results."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from streamcap.atomic import atomic_write, json_text, make_directory
from streamcap.cli.caption.options import PILLOW_NAMES, SUFFIXES, CaptionRunOptions, Files
from streamcap.cli.one_line import one_line
from streamcap.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.progress import Progress, TaskID

    from streamcap.captions.cue import Cue
    from streamcap.media.files.animation import AnimatedImage
    from streamcap.media.files.video_file import VideoFile
    from streamcap.offline.file_captioner import FileCaptioner, VideoMoment
    from streamcap.offline.remote_captioner import RemoteFileCaptioner

_JPEG_QUALITY = 92


class CaptionRun:
    """One run over all files."""

    def __init__(
        self,
        captioner: FileCaptioner | RemoteFileCaptioner,
        files: Files,
        options: CaptionRunOptions,
        progress: Progress,
    ) -> None:
        self._captioner = captioner
        self._files = files
        self._options = options
        self._progress = progress
        self._entries: list[dict[str, Any]] = []
        self._lines: list[str] = []
        self._bad: list[InputError] = []
        # Whether each video is written to its own file when done; otherwise there is one output at the end.
        self._per_video = options.to_directory or (
            options.format != "text" and len(files.videos) == 1 and not files.images
        )

    def run(self) -> None:
        """Caption all files. Raises InputError at the end if files could not be read."""
        for path, reason in self._files.left_out.items():
            typer.echo(f"left out: {one_line(path)}: {reason}", err=True)
        if self._files.hidden:
            typer.echo(f"left out: {_count_hidden(self._files.hidden)}", err=True)
        if self._files.images:
            self._caption_images()
        for path in self._files.videos:
            try:
                self._caption_video(path)
            except InputError as error:
                if self._files.alone:
                    raise
                self._bad.append(error)
        self._write_all()
        self._report()

    def _report(self) -> None:
        """Report the files that were not captioned. Raises InputError if any of them could not be read."""
        if self._bad and self._files.alone:
            raise self._bad[0]
        for error in self._bad:
            typer.echo(f"left out: {one_line(error)}", err=True)
        if count := len(self._bad) + len(self._files.left_out) + len(self._files.hidden):
            summary = f"{len(self._entries)} captioned, {count} left out"
            if self._bad:
                raise InputError(f"{summary}, {len(self._bad)} of which cannot be read")
            typer.echo(summary, err=True)

    # Images ---------------------------------------------------------------------------------------------------

    def _caption_images(self) -> None:
        from streamcap.offline.annotate import annotate

        task = self._progress.add_task("images", total=len(self._files.images))
        drawn = self._options.annotate_dir is not None

        def on_bad(path: Path, error: InputError) -> None:
            self._bad.append(error)
            self._progress.advance(task)

        for item, result in self._captioner.images(self._files.images, keep=drawn, on_bad=on_bad):
            text = " ".join(result.text.split())
            entry = {"path": str(item.path), "text": text, "logprob": _rounded(result.logprob)}
            self._entries.append({**entry, "confidence": _rounded(result.confidence)})
            self._print_line(item.path, text)
            if item.image is not None:
                path = self._options.annotated_path(self._files.images[item.path])
                write_image(path, annotate(item.image, text))
            self._progress.advance(task)

    # Videos -----------------------------------------------------------------------------------------------------

    def _caption_video(self, path: Path) -> None:
        from streamcap.media.files.animation import open_video
        from streamcap.offline.file_captioner import merged, select_frames, to_cues

        options = self._options
        with open_video(path) as video:
            if video.choice is not None:
                typer.echo(f"{one_line(path)}: {video.choice}", err=True)
            windows = select_frames(
                video.index, self._captioner.clip_length, frames=options.num_captions, every=options.every
            )
            task = self._progress.add_task(path.name, total=len(windows))
            captions, confidences = self._follow(video, windows, task)
            if not captions:
                raise InputError(f"{path}: no frame of the video can be decoded")
            cues = to_cues(captions, video.index.seconds(video.index.end))
        cues = merged(cues) if options.merge else cues
        self._write_video(path, cues, [confidences[cue.start_ms] for cue in cues])

    def _follow(
        self, video: VideoFile | AnimatedImage, windows: list[list[int]], task: TaskID
    ) -> tuple[list[tuple[float, str]], dict[int, float | None]]:
        """Time in seconds and text of each caption, and the confidences by time in ms."""
        from streamcap.captions.cue import to_ms
        from streamcap.captions.formats.vtt import timestamp

        keep = self._options.save_frames is not None or self._options.annotate_dir is not None
        captions: list[tuple[float, str]] = []
        confidences: dict[int, float | None] = {}
        for at, result in self._captioner.video(video, windows, keep=keep):
            text = " ".join(result.text.split())
            repeated = self._options.merge and bool(captions) and captions[-1][1] == text
            captions.append((at.seconds, text))
            confidences[to_ms(at.seconds)] = _rounded(result.confidence)
            if not self._per_video and not repeated:
                self._print_line(video.path, f"{timestamp(to_ms(at.seconds))}  {text}")
            self._save_frames(video.path, len(captions), at, text)
            self._progress.advance(task)
        if lost := len(windows) - len(captions):
            self._progress.advance(task, lost)
            what = f"{lost} of {len(windows)} frames could not be decoded and are left out"
            typer.echo(f"{one_line(video.path)}: {what}", err=True)
        return captions, confidences

    def _save_frames(self, path: Path, number: int, at: VideoMoment, text: str) -> None:
        from streamcap.media.files.image_file import upright
        from streamcap.offline.annotate import annotate

        for directory, drawn in ((self._options.save_frames, False), (self._options.annotate_dir, True)):
            if directory is None:
                continue
            folder = directory if len(self._files.videos) == 1 else directory / path.name
            for frame in at.frames[:1] if drawn else at.frames:
                image = upright(frame.video_frame, frame.sample_aspect)
                name = f"frame_{number:04d}_{frame.seconds:.3f}s.jpg"
                write_image(folder / name, annotate(image, text) if drawn else image)

    def _write_video(self, path: Path, cues: list[Cue], confidences: list[float | None]) -> None:
        from streamcap.captions.formats.json import entries

        timed = entries(cues, self._options.lang)
        captions = [{**entry, "confidence": one} for entry, one in zip(timed, confidences, strict=True)]
        self._entries.append({"path": str(path), "captions": captions})
        if not self._per_video:
            return
        content = self._rendered(cues)
        if self._options.to_directory and self._options.output is not None:
            make_directory(self._options.output)
            atomic_write(self._options.output / f"{path.stem}{SUFFIXES[self._options.format]}", content)
        elif self._options.output is not None:
            atomic_write(self._options.output, content)
        elif not self._options.as_json:
            typer.echo(content, nl=False)

    def _rendered(self, cues: list[Cue]) -> str:
        from streamcap.captions.formats import json as json_format
        from streamcap.captions.formats import srt, vtt

        match self._options.format:
            case "srt":
                return srt.render(cues)
            case "vtt":
                return vtt.render(cues)
            case "json":
                return json_format.render(cues, self._options.lang)
            case "text":
                return "".join(f"{vtt.timestamp(cue.start_ms)}  {cue.text}\n" for cue in cues)

    # Output -----------------------------------------------------------------------------------------------------

    def _print_line(self, path: Path, text: str) -> None:
        """Collect one line of text, and print it if standard output has no other format."""
        line = text if self._files.alone else f"{one_line(path)}: {text}"
        self._lines.append(line)
        if self._options.output is None and self._options.format == "text" and not self._options.as_json:
            typer.echo(line)

    def _write_all(self) -> None:
        array = json_text(self._entries, indent=2)
        output, as_json = self._options.output, self._options.format == "json"
        if not self._per_video and self._entries:
            if output is not None:
                atomic_write(output, array if as_json else "".join(f"{line}\n" for line in self._lines))
            elif as_json and not self._options.as_json:
                typer.echo(array, nl=False)
        if self._options.as_json:
            typer.echo(array, nl=False)


def _count_hidden(hidden: list[Path]) -> str:
    if len(hidden) == 1:
        return f"{one_line(hidden[0])}: hidden"
    return f"{len(hidden)} hidden files and folders, such as {one_line(hidden[0])}"


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)


def write_image(path: Path, image: Image) -> None:
    """Write an image atomically, in the format of its suffix; creates its directory. Raises InputError."""
    make_directory(path.parent)
    content = io.BytesIO()
    image.save(content, PILLOW_NAMES[path.suffix.lower()], quality=_JPEG_QUALITY)
    atomic_write(path, content.getvalue())
