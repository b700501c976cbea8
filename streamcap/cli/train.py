"""`streamcap train`: a captioner from a feature cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from streamcap.cli.extra import require_extra
from streamcap.errors import InputError


def train(
    cache: Annotated[Path, typer.Argument(help="A feature cache that `streamcap dataset` made.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the run: curves, the last state, and best/, the checkpoint.")],
    preset: Annotated[
        str,
        typer.Option(help="b32-gpt2, b32-gpt2-transformer, b32-gpt2-video, b32-gpt2-pooled, l14-gpt2-medium, small."),
    ] = "b32-gpt2",
    mapping: Annotated[
        str | None,
        typer.Option(help="mlp, transformer, pooled, video-transformer, video-cross, video-mlp or grid."),
    ] = None,
    gpt2: Annotated[str | None, typer.Option(help="GPT-2 to start from (directory, hub name), or `fresh`.")] = None,
    only_prefix: Annotated[
        bool | None, typer.Option("--only-prefix/--train-gpt2", help="Train the mapping alone, or GPT-2 as well.")
    ] = None,
    prefix: Annotated[int | None, typer.Option(help="Prefix positions.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Times through the train split.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images or clips a batch.")] = None,
    grad_accum: Annotated[int | None, typer.Option(help="Batches a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate, after the warm-up.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps of warm-up.")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Label smoothing.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout in GPT-2.")] = None,
    mapper_layers: Annotated[int | None, typer.Option(help="Layers of a transformer mapping.")] = None,
    mapper_heads: Annotated[int | None, typer.Option(help="Heads of a transformer mapping.")] = None,
    width: Annotated[int | None, typer.Option(help="Fresh GPT-2: width, a multiple of 64.")] = None,
    layers: Annotated[int | None, typer.Option(help="Fresh GPT-2: layers.")] = None,
    vocabulary: Annotated[int | None, typer.Option(help="Fresh GPT-2: tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="One seed, one result on a CPU.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, with the same settings.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was kept as one line of JSON.")] = False,
) -> None:
    """Train a captioner on a feature cache; the best by CIDEr on the dev split is kept."""
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
        raise InputError(f"{cache}: no such folder; `streamcap dataset` makes feature caches")
    require_extra("train", "matplotlib", "pycocoevalcap")
    trainer = Trainer(options, FeatureCache(cache), out, find_device(device), resume=resume)
    with progress_bar() as bar:
        task = bar.add_task("training", total=trainer.steps, completed=trainer.step)

        def tell(progress: Progress) -> None:
            if progress.dev is not None:
                scores = progress.dev
                bar.console.print(
                    f"epoch {progress.epoch}: dev CIDEr {scores.cider:.3f}, BLEU-4 {scores.bleu4:.3f}, "
                    f"exact {scores.exact:.3f}"
                )
            elif progress.loss == progress.loss:
                bar.update(task, completed=progress.step, description=f"loss {progress.loss:.3f}")

        trainer.run(tell)
    best = out / "best"
    if as_json:
        typer.echo(json.dumps({"checkpoint": str(best), "steps": trainer.steps, **trainer.best_checkpoint()}))
    else:
        typer.echo(f"{best}: load it by load_captioner({str(best)!r})")
