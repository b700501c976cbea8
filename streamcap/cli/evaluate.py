"""`streamcap evaluate`: scores a checkpoint on a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamcap.cli.extra import require_extra
from streamcap.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL.Image import Image

    from streamcap.captioner import Captioner
    from streamcap.captioner.result import Result
    from streamcap.training.data.corpus import Item, MediaFolder
    from streamcap.training.evaluation.evaluation import Evaluation

BATCH = 64


def evaluate(
    model: Annotated[str, typer.Argument(help="Model name, file or directory.", show_default=False)],
    cache: Annotated[Path | None, typer.Option(help="Score on a feature cache from `streamcap dataset`.")] = None,
    captions: Annotated[Path | None, typer.Option(help="Score on images: pipe-separated caption file.")] = None,
    split_file: Annotated[
        Path | None, typer.Option("--split-file", help="With --captions: file with the image names of the split.")
    ] = None,
    media: Annotated[
        Path | None,
        typer.Option(help="Folder or tar file of the images or clips, for --captions and for sheet.png."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Judge the object words: labels.csv (image_name|source|split|labels)."),
    ] = None,
    detections: Annotated[
        Path | None, typer.Option(help="With --labels: what two detectors see, a .jsonl or .jsonl.gz file.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="With --labels: only the images that training never sees.")
    ] = False,
    split: Annotated[str, typer.Option(help="Split of the cache.")] = "test",
    beam: Annotated[int, typer.Option(min=1, max=64, help="Beam size; 1: greedy search.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Folder for scores.json, captions.json and sheet.png.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score a captioner: BLEU-1 to 4, ROUGE-L, CIDEr, diversity, lengths, calibration, and a contact sheet."""
    from streamcap.atomic import make_directory, write_json
    from streamcap.captioner import load_captioner
    from streamcap.training.data.corpus import MediaFolder
    from streamcap.training.evaluation.contact_sheet import draw_contact_sheet
    from streamcap.training.evaluation.evaluation import table

    if labels is not None:
        if cache is not None or media is None:
            raise InputError("--labels goes with --media, and not with --cache")
    elif (cache is None) == (captions is None):
        raise InputError("give either --cache, or --captions or --labels with --media")
    if labels is None and (detections is not None or held_out):
        raise InputError("--detections and --held-out go with --labels")
    require_extra("train", "pycocoevalcap")
    captioner = load_captioner(model, device=device, precision="fp32")
    captioner.require_text()
    if out is not None:
        make_directory(out)
    folder = MediaFolder(media) if media is not None else None
    if labels is not None and folder is not None:
        report = _on_labels(captioner, labels, detections, captions, folder, beam, held_out=held_out)
        if out is not None:
            write_json(out / "objects.json", {"model": model, "beam": beam, **report})
        typer.echo(json.dumps(report) if as_json else table(report))
        return
    if cache is not None:
        evaluation = _on_cache(captioner, cache, split, beam)
    elif captions is not None and folder is not None:
        evaluation = _on_images(captioner, captions, split_file, folder, beam)
    else:
        raise InputError("--captions needs --media, the folder or tar file of the images")
    report = evaluation.report()
    if out is not None:
        write_json(out / "scores.json", {"model": model, "beam": beam, **report})
        write_json(
            out / "captions.json",
            [{"name": item.name, "caption": item.caption, "references": item.references} for item in evaluation.judged],
        )
        draw_contact_sheet(evaluation.judged, _image_finder(folder), out / "sheet.png")
    typer.echo(json.dumps(report) if as_json else table(report))


def _on_cache(captioner: Captioner, folder: Path, split: str, beam: int) -> Evaluation:
    from streamcap.training.data.feature_cache import FeatureCache
    from streamcap.training.evaluation.evaluation import caption_cache, check_encoder, evaluate_results

    cache = FeatureCache(folder)
    check_encoder(captioner, cache)
    examples = cache.examples(split)
    results = caption_cache(captioner, cache, split, examples, beam)
    return evaluate_results([e.name for e in examples], results, [e.captions for e in examples])


def _on_images(
    captioner: Captioner, captions: Path, split_file: Path | None, media: MediaFolder, beam: int
) -> Evaluation:
    from streamcap.training.data.corpus import read_flickr
    from streamcap.training.evaluation.evaluation import evaluate_results

    corpus = read_flickr(captions, media, {} if split_file is None else {"test": split_file})
    items = corpus.splits.get("test") or next(iter(corpus.splits.values()))
    kept, results = _caption_items(captioner, media, items, beam)
    return evaluate_results([item.name for item in kept], results, [item.captions for item in kept])


def _caption_items(
    captioner: Captioner, media: MediaFolder, items: Sequence[Item], beam: int
) -> tuple[list[Item], list[Result]]:
    """The items whose images can be read, and a caption of each. Raises InputError where none can be."""
    from streamcap.training.data.clips import UnreadableError, read_image

    results: list[Result] = []
    kept: list[Item] = []
    for start in range(0, len(items), BATCH):
        pixels = []
        for item in items[start : start + BATCH]:
            try:
                pixels.append(read_image(media.read(item.name), captioner.image_spec))
            except (UnreadableError, OSError) as error:
                typer.echo(f"left out: {item.name}: broken ({error})", err=True)
                continue
            kept.append(item)
        if pixels:
            results += captioner.caption(pixels, beam_size=beam)
    if not kept:
        raise InputError(f"{media.path}: none of the {len(items)} images can be read")
    return kept, results


def _on_labels(
    captioner: Captioner,
    labels: Path,
    detections: Path | None,
    captions: Path | None,
    media: MediaFolder,
    beam: int,
    *,
    held_out: bool,
) -> dict[str, Any]:
    from streamcap.training.data.corpus import Item, read_flickr
    from streamcap.training.evaluation.evaluation import evaluate_results
    from streamcap.training.evaluation.held_out import is_held_out
    from streamcap.training.evaluation.object_truth import is_correct, judge_captions, read_truths
    from streamcap.training.mini.grounding.confidence import judge_confidence

    items = [] if captions is None else next(iter(read_flickr(captions, media, {}).splits.values()))
    references = {item.name: item.captions for item in items}
    truths = read_truths(labels, detections, references)
    names = [
        name for name in truths if name in media and (not held_out or is_held_out(name, captioned=name in references))
    ]
    kept, results = _caption_items(captioner, media, [Item(name, references.get(name, ())) for name in names], beam)
    report: dict[str, Any] = {
        "objects": judge_captions([result.text for result in results], [truths[item.name] for item in kept]).report()
    }
    judged_by = [is_correct(result.text, truths[item.name]) for item, result in zip(kept, results, strict=True)]
    sure = [
        (result.confidence, correct)
        for result, correct in zip(results, judged_by, strict=True)
        if result.confidence is not None and correct is not None
    ]
    if sure:
        report["confidence"] = judge_confidence([one for one, _ in sure], [correct for _, correct in sure])
    captioned = [number for number, item in enumerate(kept) if item.captions]
    if captioned:
        judged = evaluate_results(
            [kept[number].name for number in captioned],
            [results[number] for number in captioned],
            [kept[number].captions for number in captioned],
        )
        report = {**judged.report(), **report}
    return report


def _image_finder(media: MediaFolder | None) -> Callable[[str], Image | None]:
    """Function that finds the image of an item by name; for a clip, its middle frame."""
    from PIL import Image as Images

    from streamcap.image_spec import ImageSpec
    from streamcap.media.files.image_file import decode_image
    from streamcap.training.data.clips import UnreadableError, read_clip

    def find(name: str) -> Image | None:
        if media is None:
            return None
        try:
            if name in media:
                return decode_image(media.read(name))
            clip = media.clip(name)
            return None if clip is None else Images.fromarray(read_clip(clip, 1, ImageSpec(320, 180, "pad"))[0])
        except (OSError, InputError, UnreadableError):
            return None

    return find
