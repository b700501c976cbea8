"""The recipe that teaches tags: targets, captions made of tags, the warm start, and a few steps of all of it."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer

from streamcap import load_captioner
from streamcap.captioner import registry
from streamcap.captioner.models.mini_encoder import build_vision, fold
from streamcap.training.evaluation.object_truth import Detection, ImageTruth
from streamcap.training.mini import steps, synthetic
from streamcap.training.mini.grounding import calibrate, recipe, tag_heads
from streamcap.training.mini.grounding.confidence import fit_confidence, judge_confidence, suggest_min_confidence
from streamcap.training.mini.grounding.data import label, pool
from streamcap.training.mini.grounding.data.pseudo_captions import counted, pseudo_captions
from streamcap.training.mini.grounding.data.tags import CLASSES, TAGS, tags_of_text, targets_of_image, targets_of_text
from streamcap.training.mini.grounding.warm_start import extend_embedding, extend_tokenizer, unfold, words_to_add

CAR = Detection("car", 0.9, (0, 0, 0.5, 0.5))


def on_progress(row: Any) -> set[str]:
    return {TAGS[number] for number in np.flatnonzero(row)}


# Tags ---------------------------------------------------------------------------------------------------------------


def test_targets_mask_what_is_unknown() -> None:
    truth = ImageTruth(frozenset(("car",)), frozenset(("dog",)), "car")
    values, weights = targets_of_image(truth, "", ([CAR, CAR], []), {"road": 0.3, "sky": 0.01}, ())
    assert on_progress(values) == {"car", "several car", "street"}
    assert weights[CLASSES.index("dog")] == 0
    assert weights[TAGS.index("several dog")] == 0
    assert weights[TAGS.index("sky")] == 1
    assert weights[TAGS.index("kitchen")] == 0


def test_targets_count_labeled_boxes() -> None:
    values, _ = targets_of_image(ImageTruth(frozenset(("wine glass",))), "wine_glass:2", (), None, ())
    assert on_progress(values) == {"wine glass", "several wine glass"}


def test_targets_without_boxes_leave_number_open() -> None:
    _, weights = targets_of_image(ImageTruth(frozenset(("cat",))), "class:cat", (), None, ())
    assert weights[TAGS.index("several cat")] == 0


def test_tags_of_text() -> None:
    assert {TAGS[number] for number in tags_of_text("two dogs and a man on a snowy street")} == {
        "dog", "several dog", "person", "snow", "street"
    }  # fmt: skip
    values, weights = targets_of_text("a cat")
    assert on_progress(values) == {"cat"} and weights.all()


# Captions made of tags ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "text"),
    [("car", 1, "a car"), ("umbrella", 0, "an umbrella"), ("person", 3, "three people"), ("bus", 9, "several buses")],
)
def test_counted(name: str, count: int, text: str) -> None:
    assert counted(name, count) == text


def test_pseudo_captions_name_nothing_else() -> None:
    truth = ImageTruth(frozenset(("car", "dog")), main="car")
    captions = pseudo_captions(truth, "", ([CAR, CAR], []), ["street"], random.Random(3))
    assert len(captions) > 3 and len(set(captions)) == len(captions)
    for caption in captions:
        assert {TAGS[number] for number in tags_of_text(caption)} <= {"car", "several car", "dog", "street"}


def test_pseudo_captions_of_a_class_alone_and_of_nothing() -> None:
    assert pseudo_captions(ImageTruth(frozenset()), "class:starfish", (), [], random.Random(1)) == []
    assert pseudo_captions(ImageTruth(frozenset()), "", (), [], random.Random(1)) == []


# The warm start -----------------------------------------------------------------------------------------------------


def released() -> Path:
    return registry.find_checkpoint("mini")


def test_extended_tokenizer_keeps_old_tokens() -> None:
    old = Tokenizer.from_file(str(released() / "tokenizer.json"))
    new = extend_tokenizer(old, ["hovercraft", "zeppelins", "no-word"])
    assert new.get_vocab_size() > old.get_vocab_size()
    assert [len(new.encode(word).ids) for word in ("hovercraft", "zeppelins")] == [1, 1]
    sentence = "a dog is running through the snow"
    assert new.encode(sentence).ids == old.encode(sentence).ids
    assert new.decode(new.encode("a hovercraft in the snow").ids).strip() == "a hovercraft in the snow"
    assert "dog" not in words_to_add(old, [sentence] * 9, ["dog", "snow"], 5)
    weight = torch.randn(old.get_vocab_size(), 4)
    wider = extend_embedding(weight, old, new)
    assert torch.equal(wider[: len(weight)], weight)
    pieces = old.encode("hovercraft").ids
    assert torch.allclose(wider[new.encode("hovercraft").ids[0]], weight[pieces].mean(0))


def test_unfold_computes_the_same() -> None:
    torch.manual_seed(1)
    config = {"architecture": "staged", "stem": 4, "widths": [4, 4], "depths": [1, 1], "strides": [2, 2]}
    config |= {"outputs": [4, 6]}
    trained = build_vision(config)
    trained(torch.randn(8, 3, 32, 32))
    shipped = build_vision({**config, "folded": True})
    shipped.load_state_dict(fold(trained.eval()))
    fresh, batches = build_vision(config), [torch.randn(4, 3, 32, 32) for _ in range(3)]
    unfold(shipped, fresh, batches)
    with torch.no_grad():
        assert torch.allclose(fresh.eval()(batches[0]), shipped.eval()(batches[0]), atol=1e-4)


# Confidence ---------------------------------------------------------------------------------------------------------


def test_fitted_confidence_is_calibrated() -> None:
    rng = np.random.default_rng(1)
    weakest = [None if rng.random() < 0.2 else float(rng.random()) for _ in range(4000)]
    chance = [0.7 if one is None else one for one in weakest]
    correct = [bool(rng.random() < one) for one in chance]
    confidence = fit_confidence(weakest, [0.0] * 4000, correct)
    report = judge_confidence([confidence.estimate(one, 0.0) for one in weakest], correct)
    assert report["error"] < 0.03
    assert report["surest_correct"] > np.mean(correct)


def test_judge_confidence_by_hand() -> None:
    report = judge_confidence([0.95, 0.95, 0.15, 0.15], [True, False, False, False])
    assert report["error"] == pytest.approx(0.5 * 0.45 + 0.5 * 0.15)
    assert report["surest_correct"] == pytest.approx(1 / 3, abs=1e-4)
    assert judge_confidence([], [])["error"] is None


def test_suggested_min_confidence_keeps_true_captions() -> None:
    sure = [0.2] * 10 + [0.62] * 10 + [0.9] * 30
    assert suggest_min_confidence(sure, [False] * 10 + [False] * 5 + [True] * 35) == 0.65
    assert suggest_min_confidence(sure, [True] * 50) == 0.0
    assert suggest_min_confidence(sure, [False] * 50) is None


# All of it ----------------------------------------------------------------------------------------------------------


def image(path: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40, 3), np.uint8)).save(path)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """A tiny Flickr8k, a tiny pool with a broken and a missing image, and sentences."""
    monkeypatch.setattr(pool, "DRAWN_TRAIN", 12)
    monkeypatch.setattr(pool, "DRAWN_DEV", 2)
    monkeypatch.setattr(pool, "RENDERS", 3)
    monkeypatch.setattr(recipe, "UNFOLD_IMAGES", 8)
    monkeypatch.setattr(steps.signal, "signal", lambda *_: None)
    monkeypatch.setattr(steps.torch, "set_flush_denormal", lambda _: None)
    flickr, images = tmp_path / "flickr", tmp_path / "pool"
    for folder in (flickr, images):
        (folder / "images").mkdir(parents=True)
    listed = [f"{number}.jpg" for number in range(4)]
    for number, name in enumerate(listed):
        image(flickr / "images" / name, number)
    lines = [f"{name}| {k}| A dog runs in the snow {name} ." for name in listed for k in range(2)]
    (flickr / "results.csv").write_text("image_name| comment_number| comment\n" + "\n".join(lines) + "\n")
    (flickr / "train.txt").write_text("0.jpg\n1.jpg\n2.jpg\n")
    (flickr / "dev.txt").write_text("3.jpg\n")
    marked = [f"voc5-{number:06}.jpg|voc5|all|car:{number % 3 + 1}" for number in range(1, 40)]
    marked.append("trash-odd.jpg|trash|all|class:hovercraft made_up:3")
    (images / "labels.csv").write_text("image_name|source|split|labels\n" + "\n".join(marked) + "\n")
    for number in range(1, 39):
        image(images / "images" / f"voc5-{number:06}.jpg", 100 + number)
    (images / "images" / "voc5-000002.jpg").write_bytes(b"no image")
    (images / "images" / "trash-odd.jpg").write_bytes(b"no image either")
    seen = {"image": "voc5-000003.jpg", "yolox": [["car", 0.9, 0, 0, 1, 1]], "ssd": [], "imagenet": [[817, 0.9]]}
    with gzip.open(images / "teachers.jsonl.gz", "wt") as stream:
        stream.write(json.dumps(seen) + "\n")
    text = tmp_path / "sentences.txt.gz"
    with gzip.open(text, "wt") as stream:
        stream.write("coco\ttwo kittens sit on a couch\n" * 6 + "multi30k\ta man in a boat on a lake\n")
    return flickr, images, text


def test_recipe_trains_exports_and_calibrates(
    data: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    flickr, images, text = data
    small = {"real_batch": 4, "synthetic_batch": 2, "text_batch": 2, "steps": 2, "warmup": 0}
    stages = tuple(
        recipe.replace(one, options=recipe.replace(one.options, **(small if one.options.steps else {})))
        for one in recipe.STAGES
    )
    monkeypatch.setattr(recipe, "STAGES", stages)
    run = tmp_path / "run"
    with caplog.at_level("WARNING"):
        assert recipe.main([str(flickr), str(images), str(run), "--text", str(text)]) == 0
    assert "voc5-000002.jpg: broken" in caplog.text
    assert (
        "2 of 40 labeled images are not there" in caplog.text or "1 of 40 labeled images are not there" in caplog.text
    )
    assert "no captions.csv" in caplog.text
    names_kept = json.loads((run / "images.json").read_text())
    assert "voc5-000001.jpg" not in names_kept, "it is held out"
    assert "voc5-000003.jpg" in names_kept
    captioner = load_captioner(str(run / "model"), device="cpu", precision="fp32")
    (result,) = captioner.caption([np.zeros((30, 30, 3), np.uint8)])
    assert result.text and result.confidence is None
    monkeypatch.setattr(calibrate, "THRESHOLDS", (0.0, 0.9))
    assert calibrate.main([str(run / "model"), str(images)]) == 0
    (sure,) = load_captioner(str(run / "model"), "cpu", "fp32").caption([np.zeros((30, 30, 3), np.uint8)])
    assert sure.confidence is not None
    settings = json.loads((run / "model" / "config.json").read_text())["tags"]
    assert settings["deny_below"] in (0.0, 0.9) and "short" in settings


def test_tag_heads_leave_other_weights(
    data: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flickr, images, _ = data
    for name, value in {"STEPS": 4, "IMAGES": 12, "DRAWN": 4}.items():
        monkeypatch.setattr(tag_heads, name, value)
    run = tmp_path / "run"
    assert tag_heads.main([str(flickr), str(images), str(run)]) == 0
    before, after = load_file(released() / "model.safetensors"), load_file(run / "model" / "model.safetensors")
    kept = [name for name in before if not name.startswith(("mapping.tag", "mapping.blind"))]
    assert all(torch.equal(before[name], after[name]) for name in kept)
    captioner = load_captioner(str(run / "model"), device="cpu", precision="fp32")
    assert captioner.tags(captioner.encode(np.zeros((1, 160, 160, 3), np.uint8))).shape == (1, len(TAGS))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda flickr, images, text: text.write_bytes(b"no gzip"), "sentences.txt.gz: cannot be read"),
        (lambda flickr, images, text: (images / "labels.csv").unlink(), "labels.csv: cannot be read"),
        (
            lambda flickr, images, text: (images / "labels.csv").write_text("image_name|source|split|labels\n"),
            "none of",
        ),
    ],
)
def test_recipe_bad_input_is_one_line(
    data: tuple[Path, Path, Path], tmp_path: Path, spoil: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    flickr, images, text = data
    spoil(flickr, images, text)
    assert recipe.main([str(flickr), str(images), str(tmp_path / "run"), "--text", str(text)]) == 2
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert message in line and "\n" not in line


TEACHERS = """
class Box:
    name, score, box = "dog", 0.9, (0.0, 0.0, 1.0, 1.0)


class Teachers:
    imagenet = None

    def yolox(self, pixels):
        return [Box()]
"""


def test_labels_go_on_where_they_stopped(data: tuple[Path, Path, Path], tmp_path: Path) -> None:
    flickr, *_ = data
    (tmp_path / "teachers.py").write_text(TEACHERS)
    out = tmp_path / "labels.jsonl"
    out.write_text('{"image": "0.jpg", "yolox": []}\n')
    assert label.main([str(flickr), str(tmp_path), str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["image"] for line in lines] == ["0.jpg", "1.jpg", "2.jpg"]
    assert lines[1]["yolox"] == [["dog", 0.9, 0.0, 0.0, 1.0, 1.0]]


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), ("import no_such_teacher", "not installed")])
def test_missing_teacher_is_one_line(
    tmp_path: Path, content: str | None, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    if content is not None:
        (tmp_path / "teachers.py").write_text(content)
    assert label.main([str(tmp_path), str(tmp_path), str(tmp_path / "out")]) == 2
    assert message in caplog.text


def test_drawn_scenes_keep_their_tokens() -> None:
    old = Tokenizer.from_file(str(released() / "tokenizer.json"))
    sentences = sorted(set(synthetic.draw_pictures(6, 1).sentences))
    new = extend_tokenizer(old, words_to_add(old, ["a refrigerator and umbrellas"] * 9, ["refrigerator"], 5))
    assert [new.encode(one).ids for one in sentences] == [old.encode(one).ids for one in sentences]
