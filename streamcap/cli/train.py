"""`streamcap train`: trains a captioner on a feature cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from streamcap.cli.extra import require_extra
from streamcap.errors import InputError


def train(
    cache: Annotated[Path, typer.Argument(help="Feature cache from `streamcap dataset`.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the run: curves, last state, and the checkpoint best/.")],
    preset: Annotated[
        str,
        typer.Option(help="b32-gpt2, b32-gpt2-transformer, b32-gpt2-video, b32-gpt2-pooled, l14-gpt2-medium, small."),
    ] = "b32-gpt2",
    mapping: Annotated[
        str | None,
        typer.Option(help="mlp, transformer, pooled, video-transformer, video-cross, video-mlp or grid."),
    ] = None,
    gpt2: Annotated[str | None, typer.Option(help="Pretrained GPT-2 (directory or hub name), or `fresh`.")] = None,
    only_prefix: Annotated[
        bool | None, typer.Option("--only-prefix/--train-gpt2", help="Train only the mapping, or GPT-2 too.")
    ] = None,
    prefix: Annotated[int | None, typer.Option(help="Prefix positions.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs.")] = None,
    batch: Annotated[int | None, typer.Option(help="Batch size (images or clips).")] = None,
    grad_accum: Annotated[int | None, typer.Option(help="Batches per optimizer step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate, after the warm-up.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Warm-up steps.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Label smoothing.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout in GPT-2.")] = None,
    mapper_layers: Annotated[int | None, typer.Option(help="Layers of a transformer mapping.")] = None,
    mapper_heads: Annotated[int | None, typer.Option(help="Heads of a transformer mapping.")] = None,
    width: Annotated[int | None, typer.Option(help="Fresh GPT-2: width, a multiple of 64.")] = None,
    layers: Annotated[int | None, typer.Option(help="Fresh GPT-2: layers.")] = None,
    vocabulary: Annotated[int | None, typer.Option(help="Fresh GPT-2: vocabulary size.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed (deterministic on CPU).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out, with the same options.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the kept checkpoint as one line of JSON.")] = False,
) -> None:
    """Train a captioner on a feature cache and keep the checkpoint with the best CIDEr on the dev split."""
    from streamcap.captioner.kernels.precision import find_device
    from streamcap.cli.progress import progress_bar
    from streamcap.training import options as presets
    from streamcap.training.data.feature_cache import FeatureCache
    from streamcap.training.trainer import Progress, Trainer

    options = presets.preset(preset).changed(
        mapping=mapping,
        gpt2=gpt2,
        train_gpt2=None if only_prefix is None else not only_prefix,
        prefix=prefix,
        epochs=epochs,
        batch=batch,
        grad_accum=grad_accum,
        learning_rate=learning_rate,
        warmup=warmup,
        label_smoothing=label_smoothing,
        dropout=dropout,
        mapper_layers=mapper_layers,
        mapper_heads=mapper_heads,
        width=width,
        layers=layers,
        vocabulary=vocabulary,
        seed=seed,
    )
    if not cache.is_dir():
        raise InputError(f"{cache}: no such folder; create feature caches with `streamcap dataset`")
    require_extra("train", "matplotlib", "pycocoevalcap")
    trainer = Trainer(options, FeatureCache(cache), out, find_device(device), resume=resume)
    with progress_bar() as bar:
        task = bar.add_task("training", total=trainer.steps, completed=trainer.step)

        def show(progress: Progress) -> None:
            if progress.dev is not None:
                scores = progress.dev
                bar.console.print(
                    f"epoch {progress.epoch}: dev CIDEr {scores.cider:.3f}, BLEU-4 {scores.bleu4:.3f}, "
                    f"exact {scores.exact:.3f}"
                )
            elif progress.loss == progress.loss:
                bar.update(task, completed=progress.step, description=f"loss {progress.loss:.3f}")

        trainer.run(show)
    best = out / "best"
    if as_json:
        typer.echo(json.dumps({"checkpoint": str(best), "steps": trainer.steps, **trainer.best_checkpoint()}))
    else:
        typer.echo(f"{best}: load it with load_captioner({str(best)!r})")
