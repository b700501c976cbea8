"""`streamcap caption`: captions of image and video files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from streamcap.cli.caption.options import CaptionRunOptions, Files, sort_files
from streamcap.cli.service.serve_options import given_options
from streamcap.errors import InputError
from streamcap.image_spec import Fit

REMOTE_PREFIX = "openai:"
"""As `streamcap.engine.model_settings.REMOTE_PREFIX`, whose package needs numpy."""


_LOCAL_ONLY = frozenset({"device", "precision", "beam", "temperature", "top_p", "seed", "batch"})
"""Options of a model that runs here; a server decides them itself. `ModelSettings` knows the others."""


def caption(
    context: typer.Context,
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
    output_format: Annotated[
        str | None,
        typer.Option("--format", help="text, srt, vtt or json.", show_default="by the suffix of --output, else text"),
    ] = None,
    num_captions: Annotated[
        int | None,
        typer.Option(
            "--num-captions",
            "-n",
            min=1,
            help="Number of captions of a video, evenly spaced.",
            show_default="10; for a clip model 1 of the whole video",
        ),
    ] = None,
    every: Annotated[float | None, typer.Option(help="Seconds between captions of a video, instead of -n.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
    annotate: Annotated[
        Path | None, typer.Option(help="Directory for copies of the images with their captions drawn below.")
    ] = None,
    save_frames: Annotated[
        Path | None, typer.Option("--save-frames", help="Directory for the captioned frames of a video.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model name, file or directory: see `streamcap models`.")] = "mini",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, or a reduced one: see `streamcap models`.")] = "auto",
    vision: Annotated[
        str | None, typer.Option(help="Vision tower for a checkpoint without one: directory or hub name.")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer for a checkpoint without one: directory or hub name.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="For models that take one.", show_default="the model's own")
    ] = None,
    model_url: Annotated[
        str | None,
        typer.Option(help="Server of an openai: model: http://127.0.0.1:11434/v1. Its key: STREAMCAP_MODEL_KEY."),
    ] = None,
    model_key_file: Annotated[
        Path | None, typer.Option(help="File with the server's key, instead of STREAMCAP_MODEL_KEY.")
    ] = None,
    beam: Annotated[int, typer.Option(min=1, help="Beam size; 1: greedy search.")] = 1,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0: no sampling.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus sampling: total probability of the candidates.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Random seed of sampling.", show_default="random")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Maximum tokens per caption.", show_default="the model's")
    ] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(help="How to fit images of another aspect ratio.", show_default="the model's own"),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size.")] = 16,
    lang: Annotated[str, typer.Option(help="Language code of the captions in JSON output.")] = "en",
    merge: Annotated[bool, typer.Option("--merge", help="Merge equal consecutive captions into one cue.")] = False,
) -> None:
    """Caption images and videos: text, subtitles, JSON."""
    from streamcap.captioner.options import SearchOptions

    if num_captions is not None and every is not None:
        raise InputError("give either -n COUNT or --every SECONDS, not both")
    if every is not None and not 0 < every < float("inf"):
        raise InputError(f"--every {every:g}: seconds, above 0")
    search = SearchOptions(beam, temperature, top_p, seed, max_tokens)
    files = sort_files(paths, of_video=num_captions is not None or every is not None or save_frames is not None)
    options = CaptionRunOptions.checked(
        files,
        output=output,
        requested=output_format,
        as_json=json_output,
        num_captions=num_captions,
        every=every,
        save_frames=save_frames,
        annotate_dir=annotate,
        lang=lang,
        merge=merge,
    )

    if model.startswith(REMOTE_PREFIX) or model_url is not None:
        for name in sorted(given_options(context) & _LOCAL_ONLY):
            raise InputError(f"--{name.replace('_', '-')}: only for a local model, but --model is {model}")
        given = {"vision": vision, "tokenizer": tokenizer, "fit": fit, "prompt": prompt}
        _caption_remotely(model, model_url, model_key_file, max_tokens, files, options, given)
        return
    if model_key_file is not None:
        raise InputError(f"--model-key-file: only for {REMOTE_PREFIX}MODEL, but --model is {model}")

    from streamcap.captioner import load_captioner
    from streamcap.captioner.registry import describe_model
    from streamcap.cli.caption.run import CaptionRun
    from streamcap.cli.progress import progress_bar
    from streamcap.offline.file_captioner import FileCaptioner

    model_loaded = load_captioner(
        model, device=device, precision=precision, vision=vision, tokenizer=tokenizer, prompt=prompt
    )
    model_loaded.require_text()
    typer.echo(describe_model(model, model_loaded.info["family"]), err=True)
    captioner = FileCaptioner(model_loaded, search, batch=batch, fit=fit)
    with progress_bar() as progress:
        CaptionRun(captioner, files, options, progress).run()


def _caption_remotely(
    model: str,
    url: str | None,
    key_file: Path | None,
    max_tokens: int | None,
    files: Files,
    options: CaptionRunOptions,
    given: Mapping[str, Any],
) -> None:
    from streamcap.cli.caption.run import CaptionRun
    from streamcap.cli.progress import progress_bar
    from streamcap.engine.model_settings import ModelSettings, find_key
    from streamcap.offline.remote_captioner import RemoteFileCaptioner

    key = find_key(key_file) if model.startswith(REMOTE_PREFIX) else None
    settings = ModelSettings(model, url=url, key=key, **given)
    captioner = RemoteFileCaptioner(settings if max_tokens is None else replace(settings, max_tokens=max_tokens))
    try:
        with progress_bar() as progress:
            CaptionRun(captioner, files, options, progress).run()
    finally:
        captioner.close()
