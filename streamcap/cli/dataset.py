"""`streamcap dataset`: encodes captioned images or clips into a feature cache."""

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
            help="flickr: the caption file. coco: SPLIT=FILE.json for each split, or Karpathy's JSON file. "
            "msrvtt: the JSON file.",
            show_default=False,
        ),
    ],
    media: Annotated[Path, typer.Option(help="Folder of images or clips, or a tar file of images.")],
    out: Annotated[Path, typer.Option(help="Folder of the feature cache; an interrupted run is resumed.")],
    layout: Annotated[str, typer.Option("--format", help="flickr, coco or msrvtt.")] = "flickr",
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="flickr: file with the image names of one split, one per line; repeatable."
        ),
    ] = None,
    encoder: Annotated[
        str, typer.Option(help="mini, a streamcap model directory, or a CLIP model (directory or hub name).")
    ] = "openai/clip-vit-base-patch32",
    feature_kind: Annotated[
        str, typer.Option("--features", help="Features to store: auto, projected, pooled or grid.")
    ] = "auto",
    frames: Annotated[int, typer.Option(min=1, max=1024, help="msrvtt: frames per clip, evenly spaced.")] = 28,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Encode captioned images or clips into a feature cache for training."""
    from streamcap.captioner.kernels.precision import find_device
    from streamcap.cli.progress import progress_bar
    from streamcap.training.data.corpus import MediaFolder
    from streamcap.training.data.dataset import build_cache
    from streamcap.training.data.encoders import open_encoder

    if feature_kind not in ("auto", "projected", "pooled", "grid"):
        raise InputError(f"--features {feature_kind}: use auto, projected, pooled or grid")
    folder = MediaFolder(media)
    corpus = _read(layout, captions, split or [], folder)
    for problem in corpus.problems[:SHOWN_PROBLEMS]:
        _report(problem)
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
            _report(problem)
    if as_json:
        typer.echo(json.dumps(manifest))
    else:
        typer.echo(_summary(out, manifest))


def _report(problem: Problem) -> None:
    typer.echo(f"left out: {problem.name}: {problem.why} {problem.detail}".rstrip(), err=True)


def _read(layout: str, captions: list[str], split: list[str], media: MediaFolder) -> Corpus:
    from streamcap.training.data import corpus

    if layout == "coco":
        if len(captions) == 1 and captions[0].partition("=")[0] not in corpus.SPLITS and Path(captions[0]).is_file():
            return corpus.read_karpathy(Path(captions[0]), media)
        return corpus.read_coco(_named(captions, "CAPTIONS"), media)
    if len(captions) != 1:
        raise InputError(f"--format {layout} needs one caption file, not {len(captions)}")
    if layout == "flickr":
        return corpus.read_flickr(Path(captions[0]), media, _named(split, "--split"))
    if layout == "msrvtt":
        return corpus.read_msrvtt(Path(captions[0]), media)
    raise InputError(f"--format {layout}: use flickr, coco or msrvtt")


def _named(pairs: list[str], what: str) -> dict[str, Path]:
    from streamcap.training.data.corpus import SPLITS

    named = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or name not in SPLITS:
            raise InputError(f"{what} {pair}: use NAME=FILE, with NAME one of {', '.join(SPLITS)}")
        named[name] = Path(path)
    return named


def _summary(out: Path, manifest: dict[str, Any]) -> str:
    counts = ", ".join(f"{split} {count}" for split, count in manifest["counts"].items())
    skipped = ", ".join(f"{count} {why}" for why, count in manifest["skipped"].items()) or "nothing"
    return f"{out}: {counts}; left out: {skipped}; listed in {out / 'manifest.json'}"
