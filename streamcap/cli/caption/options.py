"""`Files` and `CaptionRunOptions`: the checked input and output of `streamcap caption`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

from streamcap.errors import InputError

Format = Literal["text", "srt", "vtt", "json"]
_BY_SUFFIX: dict[str, Format] = {".txt": "text", ".srt": "srt", ".vtt": "vtt", ".json": "json"}
SUFFIXES: dict[Format, str] = {written: suffix for suffix, written in _BY_SUFFIX.items()}
# Annotated copies keep these formats; all others become PNG.
PILLOW_NAMES = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}


@dataclass(slots=True)
class Files:
    """The files of one run, by kind."""

    images: dict[Path, Path] = field(default_factory=dict)
    """Image → path of its annotated copy, relative to the directory for those."""
    videos: list[Path] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)
    """File of a folder that is not captioned → reason."""
    hidden: list[Path] = field(default_factory=list)
    """Hidden files and folders of a folder, which are not captioned."""
    alone: bool = True
    """Whether one file was given, so that output lines need no file name."""


def sort_files(names: Sequence[str], *, of_video: bool) -> Files:
    """Sort paths by kind; a folder stands for its images. Raises InputError for any other path.

    of_video: whether options for videos were given; animated images then count as videos.
    """
    from streamcap.media.files.image_file import check_image, has_image_name, list_folder
    from streamcap.media.files.video_file import check_video

    files = Files(alone=len(names) == 1 and not _is_folder(Path(names[0])))
    for name in names:
        if not name.strip():
            raise InputError("empty PATH: give a file or folder")
        path = Path(name)
        if "://" in name:
            raise InputError(f"{name}: not a file; use `streamcap serve` for streams")
        if _is_folder(path):
            contents = list_folder(path)
            files.images |= {found: found.relative_to(path) for found in contents.images}
            files.left_out |= {other: _skip_reason(other) for other in contents.others} | contents.unread
            files.hidden += contents.hidden
        elif has_image_name(path):
            check_image(path)
            if of_video and _plays(path):
                files.videos.append(path)
            else:
                files.images[path] = Path(path.name)
        else:
            try:
                check_video(path)
            except InputError as error:
                try:
                    check_image(path)
                except InputError:
                    raise error from None
                files.images[path] = Path(path.name)
            else:
                files.videos.append(path)
    return files


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:
        raise InputError(f"{path}: cannot be opened: {error.strerror}") from None


def _plays(path: Path) -> bool:
    from streamcap.media.files.animation import ANIMATED_SUFFIXES, is_animated

    return path.suffix.lower() == ".gif" or (path.suffix.lower() in ANIMATED_SUFFIXES and is_animated(path))


def _skip_reason(path: Path) -> str:
    from streamcap.media.files.video_file import check_video

    try:
        check_video(path)
    except InputError:
        return "its suffix is not that of an image"
    return "a video; only images of a folder are captioned, so give its path"


@dataclass(frozen=True, slots=True)
class CaptionRunOptions:
    """What to write, and where."""

    format: Format
    output: Path | None
    """A file; or a directory for one file per video."""
    to_directory: bool
    as_json: bool
    """Whether to print a JSON array of all captions."""
    num_captions: int | None
    every: float | None
    save_frames: Path | None
    annotate_dir: Path | None
    lang: str
    merge: bool

    @classmethod
    def checked(cls, files: Files, *, output: str | None, requested: str | None, **others: Any) -> Self:
        """Check all options, before the model is loaded. Raises InputError."""
        if requested is not None and requested not in get_args(Format):
            raise InputError(f"--format {requested}: use one of {', '.join(get_args(Format))}")
        out = None if output is None else Path(output)
        to_directory = out is not None and (
            out.is_dir() or str(output).endswith("/") or (len(files.videos) > 1 and not out.suffix)
        )
        by_suffix = None if out is None else _BY_SUFFIX.get(out.suffix.lower())
        if out is not None and not to_directory and by_suffix is None and requested is None:
            raise InputError(f"--output {output}: use one of the suffixes {', '.join(_BY_SUFFIX)}, or give --format")
        chosen = requested or by_suffix or ("srt" if to_directory else "text")
        options = cls(format=cast(Format, chosen), output=out, to_directory=to_directory, **others)
        if not files.videos and (
            options.num_captions is not None or options.every is not None or options.save_frames is not None
        ):
            raise InputError("-n, --every and --save-frames are for videos, but all files are images")
        options._check_output(files)
        for flag, folder in (("--save-frames", options.save_frames), ("--annotate", options.annotate_dir)):
            if folder is not None:
                _check_can_make(flag, folder)
        options._check_annotated(files)
        return options

    def _check_output(self, files: Files) -> None:
        if self.to_directory and files.images:
            raise InputError(f"--output {self.output}: a directory is for videos; give a .txt or .json file")
        subtitles = self.format in ("srt", "vtt")
        if subtitles and files.images:
            raise InputError(f"{next(iter(files.images))}: images have no timestamps; {self.format} is for videos")
        if subtitles and len(files.videos) > 1 and not self.to_directory:
            raise InputError("several videos: give -o DIRECTORY for their subtitles")
        if self.output is None:
            return
        if self.output in (*files.images, *files.videos):
            raise InputError(f"--output {self.output}: this is an input file")
        if self.to_directory:
            stems = [video.stem for video in files.videos]
            if twice := {stem for stem in stems if stems.count(stem) > 1}:
                raise InputError(f"two videos are named {sorted(twice)[0]}: their captions would be one file")
        elif not self.output.parent.is_dir():
            raise InputError(f"--output {self.output}: no such directory: {self.output.parent}")
        elif not os.access(self.output.parent, os.W_OK):
            raise InputError(f"--output {self.output}: the directory {self.output.parent} is not writable")

    def _check_annotated(self, files: Files) -> None:
        if self.annotate_dir is None:
            return
        seen: set[Path] = set()
        for image, relative in files.images.items():
            drawn = self.annotated_path(relative)
            if drawn in seen:
                raise InputError(f"two images are named {relative}: their annotated copies would be one file")
            if drawn.exists() and drawn.samefile(image):
                raise InputError(f"--annotate {self.annotate_dir}: {image} itself would be overwritten")
            seen.add(drawn)

    def annotated_path(self, relative: Path) -> Path:
        """Path of the annotated copy of an image."""
        directory = cast(Path, self.annotate_dir)
        keeps_format = relative.suffix.lower() in PILLOW_NAMES
        return directory / (relative if keeps_format else relative.with_name(f"{relative.name}.png"))


def _check_can_make(flag: str, folder: Path) -> None:
    """Raises InputError if the directory `folder` cannot be made: before the work, not after it."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if not there.is_dir():
        raise InputError(f"{flag} {folder}: {there} is not a directory")
    if not os.access(there, os.W_OK):
        raise InputError(f"{flag} {folder}: the directory {there} is not writable")
