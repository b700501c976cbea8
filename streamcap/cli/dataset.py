"""`streamcap dataset`: captioned images or clips to a feature cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamcap.errors import InputError

if TYPE_CHECKING:
    from streamcap.training.data.corpus import Corpus, MediaFolder, Problem

SHOWN_PROBLEMS = 20


def dataset(
    captions: Annotated[
        list[str],
        typer.Argument(
            metavar="CAPTIONS ...",
            help="flickr: the file of captions. coco: SPLIT=FILE.json for each split, or Karpathy's json alone. "
            "msrvtt: the json.",
            show_default=False,
        ),
    ],
    media: Annotated[Path, typer.Option(help="Folder of the images or clips, or a tar file of images.")],
    out: Annotated[Path, typer.Option(help="Folder of the feature cache; a stopped run goes on there.")],
    layout: Annotated[str, typer.Option("--format", help="flickr, coco or msrvtt.")] = "flickr",
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="flickr: the image names of one split, one a line. Repeatable."),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="mini, a directory of ours, or a CLIP (directory or hub name).")
    ] = "openai/clip-vit-base-patch32",
    feature_kind: Annotated[
        str, typer.Option("--features", help="What is kept of an image: auto, projected, pooled or grid.")
    ] = "auto",
    frames: Annotated[int, typer.Option(min=1, max=1024, help="msrvtt: frames spread evenly over a clip.")] = 28,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Encode captioned images or clips once, into a feature cache to train on."""
    from streamcap.captioner.kernels.precision import find_device
    from streamcap.cli.progress import progress_bar
    from streamcap.training.data.corpus import MediaFolder
    from streamcap.training.data.dataset import build_cache
    from streamcap.training.data.encoders import open_encoder

    if feature_kind not in ("auto", "projected", "pooled", "grid"):
        raise InputError(f"--features {feature_kind}: it is auto, projected, pooled or grid")
    folder = MediaFolder(media)
    corpus = _read(layout, captions, split or [], folder)
    for problem in corpus.problems[:SHOWN_PROBLEMS]:
        _tell(problem)
    broken: list[Problem] = []
    opened = open_encoder(encoder, feature_kind, find_device(device))  # type: ignore[arg-type]  # checked above
    total = sum(map(len, corpus.splits.values()))
    try:
        with progress_bar() as progress:
            task = progress.add_task("encoding", total=total)
            manifest = build_cache(
                out,
                corpus,
                folder,
                opened,
                frames=frames if layout == "msrvtt" else None,
                advance=lambda count: progress.advance(task, count),
                on_problem=broken.append,
            )
    finally:
        for problem in broken[:SHOWN_PROBLEMS]:
            _tell(problem)
    if as_json:
        typer.echo(json.dumps(manifest))
    else:
        typer.echo(_summary(out, manifest))


def _tell(problem: Problem) -> None:
    typer.echo(f"left out: {problem.name}: {problem.why} {problem.detail}".rstrip(), err=True)


def _read(layout: str, captions: list[str], split: list[str], media: MediaFolder) -> Corpus:
    from streamcap.training.data import corpus

    if layout == "coco":
        if len(captions) == 1 and captions[0].partition("=")[0] not in corpus.SPLITS and Path(captions[0]).is_file():
            return corpus.read_karpathy(Path(captions[0]), media)
        return corpus.read_coco(_named(captions, "CAPTIONS"), media)
    if len(captions) != 1:
        raise InputError(f"--format {layout} takes one file of captions, not {len(captions)}")
    if layout == "flickr":
        return corpus.read_flickr(Path(captions[0]), media, _named(split, "--split"))
    if layout == "msrvtt":
        return corpus.read_msrvtt(Path(captions[0]), media)
    raise InputError(f"--format {layout}: it is flickr, coco or msrvtt")


def _named(pairs: list[str], what: str) -> dict[str, Path]:
    from streamcap.training.data.corpus import SPLITS

    named = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or name not in SPLITS:
            raise InputError(f"{what} {pair}: NAME=FILE is expected, NAME one of {', '.join(SPLITS)}")
        named[name] = Path(path)
    return named


def _summary(out: Path, manifest: dict[str, Any]) -> str:
    counts = ", ".join(f"{split} {count}" for split, count in manifest["counts"].items())
    skipped = ", ".join(f"{count} {why}" for why, count in manifest["skipped"].items()) or "nothing"
    return f"{out}: {counts}; left out: {skipped}; listed in {out / 'manifest.json'}"
