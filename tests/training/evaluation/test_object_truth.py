"""Object truth: which words count, what is present, and the shares that are reported."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from streamcap.captioner.grounding.object_words import OBJECTS, find_mentions
from streamcap.errors import InputError
from streamcap.training.evaluation.held_out import is_held_out
from streamcap.training.evaluation.object_truth import (
    Detection,
    ImageTruth,
    judge_captions,
    label_classes,
    read_truths,
    truth_of_captions,
    truth_of_image,
)

WHOLE = (0.0, 0.0, 1.0, 1.0)
SMALL = (0.0, 0.0, 0.1, 0.1)


def named(text: str) -> list[set[str]]:
    return [set(mention.classes) for mention in find_mentions(text)]


def test_there_are_80_classes() -> None:
    assert len(OBJECTS) == 80


def test_mentions_prefer_the_longer_word() -> None:
    assert named("a man eats a hot dog next to a teddy bear .") == [{"person"}, {"hot dog"}, {"teddy bear"}]


def test_mentions_of_color_orange_are_none() -> None:
    assert named("an orange shirt") == []


def test_general_mention_is_true_of_any_class() -> None:
    (mention,) = find_mentions("a bike")
    assert mention.general
    assert ImageTruth(frozenset(("motorcycle",))).verdict(mention) is True
    assert ImageTruth(frozenset(("car",))).verdict(mention) is False


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ("car:7 person:2", {"car", "person"}),
        ("class:bullet_train", {"train"}),
        ("class:car_wheel", set()),
        ("class:fruit/apple/pink-lady", {"apple"}),
        ("seg:bicyclist seg:sky", {"bicycle", "person"}),
        ("scene:bedroom", set()),
        ("class:sea_horse", set()),
        ("wine_glass:2", {"wine glass"}),
        ("made_up:3", set()),
        ("", set()),
    ],
)
def test_label_classes(labels: str, classes: set[str]) -> None:
    assert label_classes(labels) == classes


def test_detectors_agree_or_one_is_sure() -> None:
    yolox = [Detection("car", 0.4, SMALL), Detection("dog", 0.7, SMALL), Detection("cat", 0.4, SMALL)]
    ssd = [Detection("car", 0.36, WHOLE), Detection("boat", 0.3, SMALL)]
    truth = truth_of_image("unsplash", "", (yolox, ssd))
    assert truth.present == {"car", "dog"}
    assert truth.unknown == {"cat", "boat"}
    assert truth.main == "car"


def test_complete_labels_overrule_detectors() -> None:
    seen = ([Detection("cat", 0.9, WHOLE), Detection("dog", 0.9, SMALL)], [])
    truth = truth_of_image("voc5", "car:1", seen)
    assert truth.present == {"car", "dog"}
    assert truth.unknown == frozenset()


def test_captions_make_objects_present() -> None:
    truth = truth_of_image("vikrant", "", (), ["A boy with a laptop ."])
    assert truth.present == {"person", "laptop"}


def test_main_object_of_captions_needs_half() -> None:
    assert truth_of_captions(["a dog", "a dog runs", "a car", "grass"]).main == "dog"
    assert truth_of_captions(["a dog", "the grass", "a field"]).main is None


@pytest.mark.parametrize("other", ["car", "cat", "horse", "bus", "train", "boat", "bench", "sheep"])
def test_equally_frequent_objects_are_in_order_of_name(other: str) -> None:
    """The order of a set is another one in each process."""
    assert truth_of_captions([f"a dog and a {other}", f"a {other} and a dog"]).main == min("dog", other)


def test_judge_captions_counts_words_and_images() -> None:
    truths = [
        ImageTruth(frozenset(("car", "person")), frozenset(("dog",)), "car"),
        ImageTruth(frozenset(("cat",)), main="cat"),
        ImageTruth(frozenset()),
    ]
    report = judge_captions(["a man and a dog in a car", "two men with a cat", "a tree"], truths).report()
    assert report == {
        "images": 3,
        "object_words": 4,
        "object_words_unknown": 1,
        "precision": 0.75,
        "images_with_false_object": 0.3333,
        "main_objects": 2,
        "main_object_named": 1.0,
    }


def test_report_of_nothing_has_no_shares() -> None:
    assert judge_captions([], []).report()["precision"] is None


def test_read_truths(tmp_path: Path) -> None:
    labels, seen = tmp_path / "labels.csv", tmp_path / "teachers.jsonl.gz"
    labels.write_text("image_name|source|split|labels\nvoc5-1.jpg|voc5|all|car:1\nade-2.jpg|ade|val|scene:street\n")
    line = {"image": "ade-2.jpg", "yolox": [["bus", 0.9, *WHOLE], ["hovercraft", 0.9, *WHOLE]], "ssd": []}
    with gzip.open(seen, "wt") as stream:
        stream.write(json.dumps(line) + "\n")
    truths = read_truths(labels, seen, {"ade-2.jpg": ["a bench"]})
    assert truths["voc5-1.jpg"].present == {"car"}
    assert truths["ade-2.jpg"] == ImageTruth(frozenset(("bus", "bench")), frozenset(), "bus")


@pytest.mark.parametrize(
    ("content", "message"),
    [("nonsense\n", "first line"), ("image_name|source|split|labels\na|b\n", "labels.csv:2: 2 fields")],
)
def test_read_truths_malformed(tmp_path: Path, content: str, message: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(content)
    with pytest.raises(InputError, match=message):
        read_truths(labels)


def test_read_truths_malformed_detections(tmp_path: Path) -> None:
    labels, seen = tmp_path / "labels.csv", tmp_path / "teachers.jsonl"
    labels.write_text("image_name|source|split|labels\na.jpg|x|all|\n")
    seen.write_text('{"file": "a.jpg"}\n')
    with pytest.raises(InputError, match=r"teachers\.jsonl:1: not a teacher's line"):
        read_truths(labels, seen)


def test_held_out_rule_is_fixed() -> None:
    names = [f"voc5-{number:06}.jpg" for number in range(1, 13)]
    assert [name for name in names if is_held_out(name, captioned=False)] == HELD_OUT_VOC
    assert not any(is_held_out(name.replace("voc5", "nowhere"), captioned=False) for name in names)
    assert 0.12 < sum(is_held_out(f"x-{number}", captioned=True) for number in range(1000)) / 1000 < 0.21


HELD_OUT_VOC = ["voc5-000001.jpg"]
