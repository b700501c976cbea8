"""`streamcap caption`: captions of image and video files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from streamcap.cli.caption_options import CaptionRunOptions, sort_files
from streamcap.errors import InputError


def caption(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH ...", help="Images, folders of images, videos.", show_default=False),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="A .srt, .vtt, .json or .txt file; for several videos a directory.",
            show_default="stdout",
        ),
    ] = None,
    format: Annotated[  # noqa: A002 - the option's name
        str | None, typer.Option(help="text, srt, vtt or json.", show_default="by the output's suffix, else text")
    ] = None,
    num_captions: Annotated[
        int | None,
        typer.Option(
            "--num-captions",
            "-n",
            min=1,
            help="Captions of a video, evenly spread.",
            show_default="10; 1 of the whole for a clip model",
        ),
    ] = None,
    every: Annotated[float | None, typer.Option(help="Seconds between captions of a video, instead of -n.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON array for a program to read.")] = False,
    annotate: Annotated[
        Path | None, typer.Option(help="Directory for the images with their captions drawn under them.")
    ] = None,
    save_frames: Annotated[
        Path | None, typer.Option("--save-frames", help="Directory for the captioned frames of a video.")
    ] = None,
    model: Annotated[str, typer.Option(help="A model's name, file or directory: see `streamcap models`.")] = "mini",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, or a reduced one: see `streamcap models`.")] = "auto",
    vision: Annotated[str | None, typer.Option(help="Directory or hub name of the vision tower a file lacks.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Directory or hub name of the tokenizer a file lacks.")] = None,
    beam: Annotated[int, typer.Option(min=1, help="Search with so many beams.")] = 1,
    temperature: Annotated[float, typer.Option(help="Above 0: sample.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens of this total probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Seed of sampling.", show_default="a new one")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens a caption.", show_default="the model's")
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(help="crop, squash or pad: how an image goes into the model's.", show_default="the model's"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images captioned at a time.")] = 16,
    lang: Annotated[str, typer.Option(help="Language of the captions, as written to JSON.")] = "en",
    merge: Annotated[bool, typer.Option("--merge", help="Make equal neighbouring captions one cue.")] = False,
) -> None:
    """Caption images and videos: text, subtitles, JSON."""
    from streamcap.captioner.options import SearchOptions
    from streamcap.image_spec import Fit

    if fit is not None and fit not in get_args(Fit):
        raise InputError(f"--fit {fit}: it is one of {', '.join(get_args(Fit))}")
    if num_captions is not None and every is not None:
        raise InputError("give either -n COUNT or --every SECONDS, not both")
    if every is not None and not 0 < every < float("inf"):
        raise InputError(f"--every {every:g}: seconds, above 0")
    search = SearchOptions(beam, temperature, top_p, seed, max_tokens)
    files = sort_files(paths, of_video=num_captions is not None or every is not None or save_frames is not None)
    options = CaptionRunOptions.checked(
        files,
        output=output,
        requested=format,
        as_json=json_output,
        num_captions=num_captions,
        every=every,
        save_frames=save_frames,
        annotate_dir=annotate,
        lang=lang,
        merge=merge,
    )

    from streamcap.captioner import load_captioner
    from streamcap.captioner.registry import describe_model
    from streamcap.cli.caption_run import CaptionRun
    from streamcap.cli.progress import progress_bar
    from streamcap.offline.file_captioner import FileCaptioner

    model_loaded = load_captioner(model, device=device, precision=precision, vision=vision, tokenizer=tokenizer)
    model_loaded.require_text()
    typer.echo(describe_model(model, model_loaded.info["family"]), err=True)
    captioner = FileCaptioner(model_loaded, search, batch=batch, fit=cast("Fit | None", fit))
    with progress_bar() as progress:
        CaptionRun(captioner, files, options, progress).run()
