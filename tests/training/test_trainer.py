"""The trainer: every mapping, exact resumption, checkpoints, and errors that overwrite nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from streamcap.captioner import load_captioner
from streamcap.captioner.checkpoints.convert import convert_checkpoint
from streamcap.captioner.checkpoints.settings import EncoderRef
from streamcap.errors import InputError, StreamcapError
from streamcap.training.curves import Curves, read_curves
from streamcap.training.data.encoders import open_encoder
from streamcap.training.options import PRESETS, TrainOptions
from streamcap.training.trainer import Trainer, caption_features, learning_rate
from tests.file_limit import run_with_file_limit
from tests.training.conftest import make_cache, sentence_of

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
TINY = TrainOptions(
    mapping="mlp",
    gpt2="fresh",
    prefix=2,
    mapper_layers=1,
    mapper_heads=2,
    embedding_positions=2,
    epochs=2,
    batch=16,
    captions=2,
    learning_rate=3e-3,
    warmup=2,
    dropout=0.1,
    width=64,
    layers=1,
    vocabulary=320,
    max_tokens=12,
)
LAYOUTS = {
    "mlp": ("clipcap", (24,), None),
    "transformer": ("clipcap", (24,), None),
    "pooled": ("videocaptioner", (64,), None),
    "video-transformer": ("nyu-video", (3, 24), 3),
    "video-cross": ("nyu-video", (3, 24), 3),
    "video-mlp": ("nyu-video", (3, 24), 3),
}


@pytest.mark.parametrize("mapping", LAYOUTS)
def test_every_mapping_trains_to_loadable_checkpoint(mapping: str, cache_of, tmp_path: Path) -> None:
    family, shape, frames = LAYOUTS[mapping]
    cache = cache_of(shape, frames)
    Trainer(TINY.changed(mapping=mapping, epochs=1), cache, tmp_path / "run", CPU).run()
    captioner = load_captioner(str(tmp_path / "run" / "best"), device="cpu")
    assert captioner.info["family"] == family
    assert captioner.clip_length == frames
    dev = cache.examples("dev")
    results = captioner.caption_embeddings(torch.from_numpy(cache.features("dev", dev)))
    assert len(results) == len(dev)


@pytest.mark.parametrize("mapping", ["mlp", "pooled"])
def test_trained_captions_equal_captioner(mapping: str, cache_of, tmp_path: Path) -> None:
    """Training runs transformers' GPT-2, captioning runs streamcap's: the two must agree."""
    cache = cache_of((64,))
    options = TINY.changed(mapping=mapping, epochs=12, captions=1, dropout=0.0, learning_rate=5e-3)
    Trainer(options, cache, tmp_path / "run", CPU).run()
    dev = cache.examples("dev")
    captions = caption_features(tmp_path / "run" / "best", cache, "dev", dev, CPU)
    assert [caption.removesuffix(" today") for caption in captions] == [sentence_of(i) for i in range(len(dev))]


def test_resume_is_exact(cache_of, tmp_path: Path) -> None:
    cache = cache_of((24,))
    options = TINY.changed(epochs=3)
    whole, parts = Trainer(options, cache, tmp_path / "whole", CPU), tmp_path / "parts"
    seen: list[float] = []
    whole.run(lambda progress: seen.append(progress.loss))
    again: list[float] = []
    Trainer(options, cache, parts, CPU).run(lambda progress: again.append(progress.loss), until=1)
    resumed = Trainer(options, cache, parts, CPU, resume=True)
    resumed.run(lambda progress: again.append(progress.loss))
    assert [x for x in again if math.isfinite(x)] == [x for x in seen if math.isfinite(x)]
    assert read_curves(parts / "curves.csv") == read_curves(tmp_path / "whole" / "curves.csv")
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (parts / "curves.png").stat().st_size > 0


def test_frozen_decoder_trains_mapping_only(cache_of, tmp_path: Path) -> None:
    trainer = Trainer(TINY.changed(train_gpt2=False, epochs=1, grad_accum=2), cache_of((24,)), tmp_path / "run", CPU)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.run()
    changed = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("mapping.") for name in changed)
    assert trainer.step == 2


def test_invalid_run_is_one_line_and_overwrites_nothing(cache_of, tmp_path: Path) -> None:
    cache, run = cache_of((24,)), tmp_path / "run"
    Trainer(TINY.changed(epochs=1), cache, run, CPU).run()
    kept = (run / "last.pt").read_bytes()
    with pytest.raises(InputError, match="already holds a run"):
        Trainer(TINY.changed(epochs=1), cache, run, CPU)
    with pytest.raises(InputError, match="other settings: learning_rate"):
        Trainer(TINY.changed(epochs=1, learning_rate=1e-4), cache, run, CPU, resume=True)
    with pytest.raises(InputError, match="holds no run to resume"):
        Trainer(TINY, cache, tmp_path / "none", CPU, resume=True)
    stored = json.loads((run / "settings.json").read_text())
    stored["encoder"]["fingerprint"] = "another"
    (run / "settings.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match="another encoder"):
        Trainer(TINY.changed(epochs=1), cache, run, CPU, resume=True)
    with pytest.raises(InputError, match="one embedding per image"):
        Trainer(TINY, cache_of((3, 24), 3), tmp_path / "shape", CPU)
    assert (run / "last.pt").read_bytes() == kept


def test_resume_with_other_cache_is_refused(cache_of, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = TINY.changed(epochs=2)
    Trainer(options, cache_of((24,)), run, CPU).run(until=1)
    for name, cache in (
        ("captions", make_cache(tmp_path / "captions", (24,), when="at night")),
        ("frames", make_cache(tmp_path / "frames", (24,), frames=3)),
    ):
        with pytest.raises(InputError, match=f"another cache than .*{name} .its {name} differ.; nothing was"):
            Trainer(options, cache, run, CPU, resume=True)
    assert Trainer(options, cache_of((24,)), run, CPU, resume=True).epoch == 1


def test_cache_of_other_encoder_version_is_refused(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", (16, 256), encoder=EncoderRef("mini", "grid", "0" * 64))
    with pytest.raises(InputError, match="the encoder mini has changed since this cache was made"):
        Trainer(TINY.changed(mapping="grid"), cache, tmp_path / "run", CPU)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("mapping", "shape", "frames"), [("mlp", (24,), None), ("pooled", (64,), None)])
def test_checkpoint_needs_the_encoder_of_its_cache(
    mapping: str, shape: tuple[int, ...], frames: int | None, cache_of, tmp_path: Path
) -> None:
    options = TINY.changed(mapping=mapping, epochs=1)
    Trainer(options, cache_of(shape, frames), tmp_path / "run", CPU).run()
    of_mini = make_cache(tmp_path / "cache", shape, frames=frames, encoder=EncoderRef("mini", "pooled", "0" * 64))
    Trainer(options, of_mini, tmp_path / "mini", CPU).run()
    convert_checkpoint(tmp_path / "run" / "best" / "model.safetensors", tmp_path / "converted")
    image = np.zeros((8, 8, 3), np.uint8)
    for model in ("run/best", "converted"):
        with pytest.raises(InputError, match="made-up: no such vision tower"):
            load_captioner(tmp_path / model, device="cpu").caption([image])
    with pytest.raises(InputError, match="trained on features of mini"):
        load_captioner(tmp_path / "mini" / "best", device="cpu").caption([image])


def test_changed_encoder_under_same_name_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=32,
        patch_size=16,
        projection_dim=24,
    )
    towers = tmp_path / "towers"
    CLIPVisionModelWithProjection(vision).save_pretrained(towers)
    made_by = open_encoder(str(towers), "projected").id
    cache = make_cache(tmp_path / "cache", (24,), encoder=made_by)
    Trainer(TINY.changed(epochs=1), cache, tmp_path / "run", CPU).run()
    best, image = tmp_path / "run" / "best", np.zeros((8, 8, 3), np.uint8)
    assert len(load_captioner(best, device="cpu").caption([image])) == 1

    CLIPVisionModelWithProjection(vision).save_pretrained(towers)
    with pytest.raises(InputError, match=f"trained with other weights than those of {towers}"):
        load_captioner(best, device="cpu").caption([image])
    caplog.clear()
    assert len(load_captioner(best, device="cpu", vision=towers).caption([image])) == 1
    assert "its captions may be meaningless" in caplog.text


def test_truncated_captions_teach_no_end(cache_of, tmp_path: Path) -> None:
    cache = cache_of((64,))
    options = TINY.changed(max_tokens=3, epochs=4, captions=1, dropout=0.0, learning_rate=5e-3)
    Trainer(options, cache, tmp_path / "run", CPU).run()
    captioner = load_captioner(tmp_path / "run" / "best", device="cpu")
    results = captioner.caption_embeddings(cache.features("dev", cache.examples("dev")))
    stop = json.loads((tmp_path / "run" / "best" / "config.json").read_text())["stop_token_id"]
    assert all(len(result.tokens) == 3 and stop not in result.tokens for result in results)


OPEN_CURVES = """
from pathlib import Path
from streamcap.errors import StreamcapError
from streamcap.training.curves import Curves
limit_file_size()
try:
    Curves(Path(sys.argv[1]), 0)
except StreamcapError as error:
    print(error)
"""


def test_unwritable_curves_keep_old_file(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    Curves(path, 0).add(step=20, loss=1.0)
    before = path.read_bytes()
    done = run_with_file_limit(8, OPEN_CURVES, path)
    assert "curves.csv: cannot be written" in done.stdout, done.stderr
    assert path.read_bytes() == before


def test_damaged_run_is_refused_and_kept(cache_of, tmp_path: Path) -> None:
    cache, run = cache_of((24,)), tmp_path / "run"
    Trainer(TINY.changed(epochs=1), cache, run, CPU).run()
    (run / "last.pt").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match=r"last\.pt: cannot be read"):
        Trainer(TINY.changed(epochs=1), cache, run, CPU, resume=True)
    (run / "settings.json").write_text("[")
    with pytest.raises(InputError, match=r"settings\.json: cannot be read"):
        Trainer(TINY.changed(epochs=1), cache, run, CPU, resume=True)
    assert (run / "last.pt").read_bytes() == b"PK nonsense"


def test_nan_loss_stops_run(cache_of, tmp_path: Path) -> None:
    trainer = Trainer(TINY, cache_of((24,)), tmp_path / "run", CPU)
    with torch.no_grad():
        next(trainer.model.mapping.parameters()).fill_(math.nan)
    with pytest.raises(StreamcapError, match="the loss is nan at step 1"):
        trainer.run()
    assert not (tmp_path / "run" / "best").exists()


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    options = TINY.changed(warmup=10, learning_rate=0.1)
    rates = [learning_rate(step, 100, options) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[9] == pytest.approx(0.1)
    assert rates[-1] < 1e-3
    assert sorted(rates[10:], reverse=True) == rates[10:]


@pytest.mark.parametrize("field", ["mapping", "epochs", "learning_rate", "dropout", "vocabulary"])
def test_invalid_settings(field: str) -> None:
    with pytest.raises(InputError, match=field):
        PRESETS["small"].changed(**{field: "cube" if field == "mapping" else -1})
