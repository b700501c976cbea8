"""`load_processor`: transformers' processor of a model of the hub, for images and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamcap.errors import InputError

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_ERRORS = (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError)


def load_processor(directory: Path) -> Any:
    """The processor in `directory`. Code of the repository is never run. Raises InputError with a one-line message."""
    # Without these files transformers would make an empty tokenizer.
    if not any((directory / name).is_file() for name in _TOKENIZER_FILES):
        raise InputError(f"{directory}: has no tokenizer: none of {', '.join(_TOKENIZER_FILES)}")
    try:
        processor = _load(directory)
    except _ERRORS as error:
        if isinstance(error, ImportError) and "torchvision" in str(error).lower():
            raise _needs_torchvision(directory) from None
        raise InputError(f"{directory}: its processor cannot be loaded: {first_line(error)}") from None
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise InputError(f"{directory}: has no processor for images and text (preprocessor_config.json is missing)")
    # Idefics3 and SmolVLM would cut each frame into up to 17 tiles.
    if hasattr(processor.image_processor, "do_image_splitting"):
        processor.image_processor.do_image_splitting = False
    return processor


def _load(directory: Path) -> Any:
    from transformers import AutoConfig, AutoProcessor, Idefics3Processor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils.import_utils import is_torchvision_available

    config = AutoConfig.from_pretrained(directory, **_LOCAL)
    if config.model_type == "smolvlm":
        # Its own class needs torchvision and num2words, both for video alone. For images it does what this one does.
        return _assemble(Idefics3Processor, directory)
    kind: Any = PROCESSOR_MAPPING.get(type(config), None)
    if kind is not None and "video_processor" in kind.get_attributes() and not is_torchvision_available():
        try:
            return _assemble(_without_video(kind), directory)
        except AttributeError as error:
            if "'NoneType'" not in str(error):
                raise
            raise _needs_torchvision(directory) from None  # it reads settings of its video processor
    return AutoProcessor.from_pretrained(directory, **_LOCAL)  # type: ignore[no-untyped-call]


def _without_video(kind: Any) -> Any:
    """A subclass of the processor class `kind` whose `video_processor` is None."""

    class ImagesOnly(kind):  # type: ignore[misc]
        def check_argument_for_proper_class(self, name: str, argument: object) -> object:
            return None if name == "video_processor" else super().check_argument_for_proper_class(name, argument)

    return ImagesOnly


def _assemble(kind: Any, directory: Path) -> Any:
    """A processor of class `kind`, from the parts for images and text in `directory`."""
    from transformers import AutoImageProcessor, AutoTokenizer

    if not {"image_processor", "tokenizer", "video_processor"}.issuperset(kind.get_attributes()):
        raise _needs_torchvision(directory)
    image_processor: Any = AutoImageProcessor
    parts = {
        "image_processor": image_processor.from_pretrained(directory, **_LOCAL),
        "tokenizer": AutoTokenizer.from_pretrained(directory, **_LOCAL),
        "video_processor": None,
    }
    settings, _ = kind.get_processor_dict(directory, local_files_only=True)
    return kind.from_args_and_dict([parts[name] for name in kind.get_attributes()], settings)


def _needs_torchvision(directory: Path) -> InputError:
    return InputError(f"{directory}: the processor of this model needs torchvision: pip install torchvision")


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
