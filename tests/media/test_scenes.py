"""Synthetic scenes: distinct sentences, deterministic images that match them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from streamcap.media.scenes import KINDS, Scene, SceneScript, draw, every_scene, random_scene
from streamcap.media.scenes.canvas import PAINT


def test_every_scene_has_its_own_caption() -> None:
    sentences = [scene.sentence for scene in every_scene()]
    assert len(sentences) == len(set(sentences))
    assert 1000 <= len(sentences) <= 3000


@pytest.mark.parametrize(
    ("scene", "sentence"),
    [
        (Scene("car", "red", 1, "drive", "road"), "a red car drives on a road"),
        (Scene("dog", "white", 2, "run", "grass"), "two white dogs run on the grass"),
        (Scene("cat", "orange", 1, "sit", "room"), "an orange cat sits in a room"),
        (Scene("bird", "blue", 3, "fly", "snow"), "three blue birds fly over the snow"),
        (Scene("man", "green", 1, "jump", "sand"), "a man in a green shirt jumps on the sand"),
        (Scene("bicycle", "yellow", 2, "ride", "road"), "two men ride yellow bicycles on a road"),
        (Scene("boat", "purple", 1, "sail", "water"), "a purple boat sails on the water"),
    ],
)
def test_captions_are_grammatical(scene: Scene, sentence: str) -> None:
    assert scene.sentence == sentence


def test_captions_are_lower_case_without_punctuation() -> None:
    assert all(
        scene.sentence == scene.sentence.lower() and scene.sentence.replace(" ", "").isalpha()
        for scene in every_scene()
    )


def test_random_scenes_follow_grammar() -> None:
    known = {replace(scene, look=0) for scene in every_scene()}
    rng = np.random.default_rng(4)
    scenes = [random_scene(rng) for _ in range(500)]
    assert {replace(scene, look=0) for scene in scenes} <= known
    assert {scene.kind for scene in scenes} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_same_scene_and_time_give_same_pixels(kind: str) -> None:
    scene = random_scene(np.random.default_rng(2), (kind,))
    first = draw(scene, 1.3, 160, 90)
    draw(replace(scene, look=scene.look + 1), 0.2, 96, 96)
    assert first.shape == (90, 160, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, draw(scene, 1.3, 160, 90))


@pytest.mark.parametrize("size", [(32, 32), (320, 180), (90, 160), (641, 359)])
def test_any_size_and_time_can_be_drawn(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for time in (0.0, 7.77, 86_400.0):
            assert draw(random_scene(rng, (kind,)), time, *size).shape == (size[1], size[0], 3)


@pytest.mark.parametrize(
    ("kind", "action", "place"),
    [("ball", "roll", "grass"), ("car", "drive", "road"), ("man", "stand", "room"), ("boat", "sail", "water")],
)
@pytest.mark.parametrize("color", ["red", "purple"])
def test_named_color_is_visible(kind: str, action: str, place: str, color: str) -> None:
    def share(count: int, drawn: str) -> float:
        shown = draw(Scene(kind, drawn, count, action, place, look=35), 1.0, 320, 180).astype(np.int16)
        return float((np.abs(shown - np.array(PAINT[color])).max(axis=2) < 48).mean())

    other = "yellow"
    assert share(1, color) > share(1, other) + 0.004
    assert share(3, color) > share(1, color)


def test_moving_objects_move_and_ground_stays() -> None:
    run = Scene("dog", "brown", 1, "run", "road", look=8)
    assert (draw(run, 0.0, 160, 90) != draw(run, 0.5, 160, 90)).mean() > 0.05
    stand = Scene("man", "red", 1, "stand", "room", look=8)
    assert (draw(stand, 0.0, 160, 90) != draw(stand, 3.0, 160, 90)).mean() < 0.1


def test_script_gives_caption_at_any_time() -> None:
    script = SceneScript(seed=5, seconds_per_scene=2.0)
    assert script.sentence_at(0.0) == script.sentence_at(1.999) == script.scene(0).sentence
    assert script.sentence_at(2.0) == script.scene(1).sentence
    assert script.scene_at(1e6) == SceneScript(5, 2.0).scene_at(1e6)
    assert SceneScript(6, 2.0).scene(0) != script.scene(0)


def test_neighboring_scenes_differ() -> None:
    script = SceneScript(seed=1)
    sentences = [script.scene(index).sentence for index in range(400)]
    assert all(one != next_one for one, next_one in pairwise(sentences))
