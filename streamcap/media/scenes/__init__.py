"""Built-in synthetic scenes: moving drawings, each with its one true sentence."""

from streamcap.media.scenes.draw import draw
from streamcap.media.scenes.scene import KINDS, Scene, every_scene, random_scene
from streamcap.media.scenes.script import SceneScript

__all__ = ["KINDS", "Scene", "SceneScript", "draw", "every_scene", "random_scene"]
