"""Models of the hub: their captions equal those of transformers' own `generate`, alone, in batches and live."""

from __future__ import annotations

import functools
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamcap.captioner import SearchOptions, load_captioner
from streamcap.captioner.captioner import Captioner
from streamcap.captioner.hub.captioner import HubCaptioner
from streamcap.captioner.hub.model import DEFAULT_PROMPT
from streamcap.captioner.hub.processor import load_processor
from streamcap.engine.change_gate import ChangeGateOptions
from streamcap.engine.engine import Engine, EngineOptions
from streamcap.engine.live import LiveModel
from streamcap.engine.outcome import Captioned, Interim, Outcome
from streamcap.errors import InputError
from streamcap.media.frame import Sample
from testbed.timeouts import TIMEOUT_FACTOR
from tests.captioner.hub.random_models import FAMILIES, MAX_TOKENS

Images = list[np.ndarray[Any, np.dtype[np.uint8]]]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for name, make in FAMILIES.items():
        torch.manual_seed(0)
        made[name] = tmp_path_factory.mktemp(name)
        make(made[name])
    return made


@pytest.fixture(scope="module")
def captioners(directories: dict[str, Path]) -> dict[str, Captioner]:
    return {name: load_captioner(directory, device="cpu") for name, directory in directories.items()}


@pytest.fixture(scope="module")
def images() -> Images:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((36, 64), (64, 36), (48, 48))]


@functools.cache
def reference(directory: Path) -> Any:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(directory)


@functools.cache
def processor_of(directory: Path) -> Any:
    from transformers import AutoProcessor

    loader: Any = AutoProcessor
    return loader.from_pretrained(directory)


def inputs_of(directory: Path, name: str, image: Any, prompt: str | None) -> tuple[Any, dict[str, Any]]:
    """The tokenizer, and the model's inputs for one image, as transformers' documentation shows it."""
    if name in ("smolvlm", "qwen2_vl"):
        return inputs_by_parts(directory, name, image, prompt or DEFAULT_PROMPT)
    processor = processor_of(directory)
    if name in ("blip", "git"):
        text = {} if prompt is None else {"text": prompt}
        return processor, processor(images=image, return_tensors="pt", **text)
    parts = [{"type": "image"}, {"type": "text", "text": prompt or DEFAULT_PROMPT}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    options = {"do_image_splitting": False} if name == "idefics3" else {}
    return processor, processor(images=[image], text=text, return_tensors="pt", **options)


def inputs_by_parts(directory: Path, name: str, image: Any, prompt: str) -> tuple[Any, dict[str, Any]]:
    """The same for families whose processor needs torchvision: the words of the image are written out here."""
    from transformers import AutoImageProcessor, AutoTokenizer

    loader: Any = AutoImageProcessor
    tokenizer = AutoTokenizer.from_pretrained(directory)
    options = {"do_image_splitting": False} if name == "smolvlm" else {}
    inputs = dict(loader.from_pretrained(directory)(images=[image], return_tensors="pt", **options))
    if name == "smolvlm":
        words = f"<fake_token_around_image><global-img>{'<image>' * 4}<fake_token_around_image>"
    else:  # one word for four patches
        words = f"<|vision_start|>{'<|image_pad|>' * (int(inputs['image_grid_thw'].prod()) // 4)}<|vision_end|>"
    inputs |= tokenizer(f"{words}{prompt} </s>", return_tensors="pt")
    if name == "qwen2_vl":
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
    return tokenizer, inputs


def by_transformers(
    directory: Path, name: str, image: Any, *, prompt: str | None = None, beams: int = 1
) -> tuple[str, float]:
    """The caption of one image, and its mean log-probability."""
    model = reference(directory)
    tokenizer, inputs = inputs_of(directory, name, image, prompt)
    out = model.generate(
        **inputs,
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        num_beams=beams,
        return_dict_in_generate=True,
        output_scores=True,
    )
    new = out.sequences[:, -len(out.scores) :]
    indices = {} if beams == 1 else {"beam_indices": out.beam_indices}
    scores = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=beams == 1, **indices)
    kept = out.sequences if name == "blip" and prompt else new
    (text,) = tokenizer.batch_decode(kept, skip_special_tokens=True)
    return " ".join(text.split()), float(scores.mean())


@pytest.mark.parametrize("name", FAMILIES)
def test_captions_equal_generate(
    name: str, directories: dict[str, Path], captioners: dict[str, Captioner], images: Images
) -> None:
    captioner = captioners[name]
    expected = [by_transformers(directories[name], name, image) for image in images]
    batch = captioner.caption(images)
    assert [result.text for result in batch] == [text for text, _ in expected]
    assert max(len(result.tokens) for result in batch) <= MAX_TOKENS
    assert [result.logprob for result in batch] == pytest.approx([logprob for _, logprob in expected], abs=1e-4)
    assert len({result.text for result in batch}) > 1
    (alone,) = captioner.caption(images[1:2])
    assert (alone.text, alone.tokens) == (batch[1].text, batch[1].tokens)
    (drafted,) = captioner.caption(images[1:2], drafts=[[1, 2, 3]])
    assert drafted.tokens == alone.tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_beams_equal_generate(
    name: str, directories: dict[str, Path], captioners: dict[str, Captioner], images: Images
) -> None:
    text, _ = by_transformers(directories[name], name, images[0], beams=3)
    (result,) = captioners[name].caption(images[:1], beam_size=3)
    assert result.text == text
    assert result.logprob < 0


@pytest.mark.parametrize("name", ["blip", "llava", "idefics3", "smolvlm", "qwen2_vl"])
def test_prompt_is_given_to_the_model(name: str, directories: dict[str, Path], images: Images) -> None:
    prompt = "a red dog" if name == "blip" else "describe the street"
    captioner = load_captioner(directories[name], device="cpu", prompt=prompt)
    text, _ = by_transformers(directories[name], name, images[0], prompt=prompt)
    (result,) = captioner.caption(images[:1])
    assert result.text == text
    assert captioner.info["prompt"] == prompt


def test_each_row_may_have_its_own_prompt(captioners: dict[str, Captioner], images: Images) -> None:
    captioner = captioners["idefics3"]
    assert isinstance(captioner, HubCaptioner)
    rows = captioner.encode(np.stack([images[2]] * 3))
    search = SearchOptions()
    together = captioner.decode(rows, search, prompts=["a dog", None, "a dog in the street"])
    for result, prompt in zip(together, ("a dog", None, "a dog in the street"), strict=True):
        (alone,) = captioner.decode(rows[:1], search, prompts=[prompt])
        assert result.tokens == alone.tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_interim_text_grows_to_the_caption(name: str, captioners: dict[str, Captioner], images: Images) -> None:
    captioner = captioners[name]
    seen: dict[int, list[list[int]]] = {0: [], 1: []}
    rows = captioner.encode(np.stack([images[2], images[2][::-1]]))
    results = captioner.decode(rows, SearchOptions(), on_text=lambda row, tokens: seen[row].append(tokens))
    for row, result in enumerate(results):
        assert [len(tokens) for tokens in seen[row]] == list(range(1, len(seen[row]) + 1))
        assert all(tokens == result.tokens[: len(tokens)] for tokens in seen[row])
        assert len(result.tokens) - len(seen[row]) in (0, 1)
        assert captioner.text(result.tokens) == result.text


def test_sampling_repeats_with_its_seed(captioners: dict[str, Captioner], images: Images) -> None:
    def sampled(seed: int) -> list[list[int]]:
        results = captioners["llava"].caption(images, temperature=1.5, seed=seed)
        return [result.tokens for result in results]

    before = torch.get_rng_state()
    assert sampled(1) == sampled(1) != sampled(2)
    assert torch.equal(before, torch.get_rng_state())


def test_features_show_a_changed_image(captioners: dict[str, Captioner]) -> None:
    captioner = captioners["idefics3"]
    pixels = np.full((3, 360, 640, 3), 90, np.uint8)
    pixels[2, :, 200:] = 200
    same, again, other = captioner.features(captioner.encode(pixels))
    assert float(same @ again) == pytest.approx(1)
    assert float(same @ other) < 0.9


@pytest.mark.parametrize("name", ["blip", "smolvlm", "qwen2_vl"])
def test_streams_are_captioned_in_a_batch(name: str, captioners: dict[str, Captioner]) -> None:
    captioner = captioners[name]
    rng = np.random.default_rng(1)
    width, height = captioner.image_spec.size
    pixels = {f"door-{number}": rng.integers(0, 256, (height, width, 3), np.uint8) for number in range(4)}
    outcomes: list[Outcome] = []
    done = threading.Event()

    def deliver(some: list[Outcome]) -> None:
        outcomes.extend(some)
        if sum(isinstance(outcome, Captioned) for outcome in outcomes) == len(pixels):
            done.set()

    options = EngineOptions(ChangeGateOptions(threshold=0.0), interim_interval=0.001)
    engine = Engine({"": LiveModel(captioner)}, options, deliver)
    now = time.monotonic()
    for stream, image in pixels.items():
        engine.submit(Sample(stream, image, 0, 0.0, 0.0, "arrival", now, now))
    engine.start()
    assert done.wait(TIMEOUT_FACTOR)
    engine.stop(TIMEOUT_FACTOR)
    captions = {outcome.sample.stream: outcome.text for outcome in outcomes if isinstance(outcome, Captioned)}
    assert captions == {stream: captioner.caption([image])[0].text for stream, image in pixels.items()}
    assert any(isinstance(outcome, Interim) for outcome in outcomes)


def test_stream_has_its_own_prompt(captioners: dict[str, Captioner]) -> None:
    captioner = captioners["llava"]
    assert isinstance(captioner, HubCaptioner)
    image = np.full((*captioner.image_spec.size[::-1], 3), 90, np.uint8)
    outcomes: list[Outcome] = []
    done = threading.Event()

    def deliver(some: list[Outcome]) -> None:
        outcomes.extend(outcome for outcome in some if isinstance(outcome, Captioned))
        if len(outcomes) == 2:
            done.set()

    engine = Engine({"": LiveModel(captioner)}, EngineOptions(ChangeGateOptions(threshold=0.0)), deliver)
    now = time.monotonic()
    prompts = {"door": None, "yard": "a red dog in the grass"}
    for name, prompt in prompts.items():
        engine.submit(Sample(name, image, 0, 0.0, 0.0, "arrival", now, now, prompt=prompt))
    engine.start()
    assert done.wait(TIMEOUT_FACTOR)
    engine.stop(TIMEOUT_FACTOR)
    rows = captioner.encode(image[None])
    expected = {name: captioner.decode(rows, prompts=[prompt])[0].text for name, prompt in prompts.items()}
    assert {outcome.sample.stream: outcome.text for outcome in outcomes if isinstance(outcome, Captioned)} == expected
    assert len(set(expected.values())) == 2


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"config.json": {"model_type": "mystery", "architectures": ["X"]}}, "'mystery' is no image-to-text model"),
        ({"config.json": {"model_type": "mystery", "auto_map": {"AutoModel": "x.Y"}}}, "code from its repository"),
        ({"processor_config.json": None, "preprocessor_config.json": None}, "processor"),
        ({"tokenizer.json": None}, "has no tokenizer"),
        ({"model.safetensors": None}, "model cannot be loaded: .*model.safetensors"),
    ],
)
def test_broken_directory_is_refused_in_one_line(
    spoil: dict[str, Any], message: str, directories: dict[str, Path], tmp_path: Path
) -> None:
    directory = tmp_path / "broken"
    shutil.copytree(directories["blip"], directory)
    for name, content in spoil.items():
        if content is None:
            (directory / name).unlink(missing_ok=True)
        else:
            (directory / name).write_text(json.dumps(content))
    with pytest.raises(InputError, match=message) as refused:
        load_captioner(directory, device="cpu")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("family", ["MiniCPMV4_6", "InstructBlipVideo"])
def test_family_that_needs_torchvision_is_refused(family: str, directories: dict[str, Path], tmp_path: Path) -> None:
    """Their processors read settings of the video processor, or have further parts."""
    import transformers
    from transformers.utils.import_utils import is_torchvision_available

    if is_torchvision_available():
        pytest.skip("torchvision is installed")
    directory = tmp_path / family
    shutil.copytree(directories["qwen2_vl"], directory)
    getattr(transformers, f"{family}Config")().save_pretrained(directory)
    if family == "MiniCPMV4_6":
        transformers.MiniCPMV4_6ImageProcessorPil().save_pretrained(directory)
    with pytest.raises(InputError, match="needs torchvision: pip install torchvision") as refused:
        load_processor(directory)
    assert "\n" not in str(refused.value)


def test_missing_weights_are_named(directories: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = tmp_path / "part"
    shutil.copytree(directories["git"], directory)
    weights = load_file(directory / "model.safetensors")
    left_out = next(name for name in weights if "attention" in name)
    save_file({name: value for name, value in weights.items() if name != left_out}, directory / "model.safetensors")
    with pytest.raises(InputError, match=f"1 weights are missing, .*{left_out.split('.')[-1]}"):
        load_captioner(directory, device="cpu")


def test_options_that_do_not_apply_are_refused(directories: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="precision int8: a model of the hub runs in fp32 or bf16"):
        load_captioner(directories["blip"], device="cpu", precision="int8")
    with pytest.raises(InputError, match="do not apply"):
        load_captioner(directories["blip"], device="cpu", tokenizer="gpt2")
    with pytest.raises(InputError, match="takes no prompt"):
        load_captioner("mini", device="cpu", prompt="a dog")


def test_dropped_caption_is_not_decoded(captioners: dict[str, Captioner]) -> None:
    captioner = next(iter(captioners.values()))
    decoder = captioner.decoder(SearchOptions(max_tokens=2))
    pixels = captioner.encode(np.zeros((1, 32, 32, 3), np.uint8))
    for key in ("door", "yard"):
        decoder.add(key, pixels[0])
    assert (decoder.drop("yard"), decoder.drop("yard"), decoder.active) == (True, False, 1)
    assert [key for key, _ in decoder.step()] == ["door"]
