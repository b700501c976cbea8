"""The embedded model: in the package, quick to load, describing images it has not seen."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from streamcap import Captioner, load_captioner
from streamcap.media.scenes import SceneScript, draw


@pytest.fixture(scope="module")
def mini() -> Captioner:
    return load_captioner("mini", device="cpu")


def test_mini_captions_synthetic_scenes(mini: Captioner) -> None:
    script = SceneScript(90210)
    times = [7.3 * number + 2 for number in range(30)]
    images = [draw(script.scene_at(time), time, 640, 360) for time in times]
    captions = [result.text for result in mini.caption(images)]
    right = sum(text == script.sentence_at(time) for text, time in zip(captions, times, strict=True))
    assert right >= 28, list(zip(captions, [script.sentence_at(time) for time in times], strict=True))


@pytest.mark.slow
def test_mini_loads_without_heavy_imports() -> None:
    large = "transformers torch._dynamo sympy av aiortc fastapi huggingface_hub"
    code = (
        "import sys; from streamcap import load_captioner; load_captioner('mini', device='cpu');"
        f"print([name for name in {large!r}.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    bare = "import sys, streamcap.captioner; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", bare], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_mini_holds_objects_back_and_says_how_sure_it_is(mini: Captioner) -> None:
    grounding = mini.grounding
    assert grounding is not None and len(grounding.objects) == 80
    (result,) = mini.caption([np.full((90, 160, 3), 128, np.uint8)])
    assert result.confidence is not None and 0 <= result.confidence <= 1
    assert not {"dog", "dogs", "man", "woman"} & set(result.text.split()), "nothing is there"
