"""The built-in world: drawn moving scenes, each with the one sentence that is true of it."""

from streamcap.media.scenes.draw import draw
from streamcap.media.scenes.scene import KINDS, Scene, every_scene, random_scene
from streamcap.media.scenes.script import SceneScript

__all__ = ["KINDS", "Scene", "SceneScript", "draw", "every_scene", "random_scene"]
