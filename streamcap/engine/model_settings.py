"""`ModelSettings`: which model captions, and how it is reached. Checked once; no torch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from urllib.parse import urlsplit

from streamcap.errors import InputError
from streamcap.image_spec import Fit
from streamcap.redact import redact

REMOTE_PREFIX = "openai:"
"""Begins the name of a model behind an HTTP server that speaks OpenAI's chat completions."""
KEY_VARIABLE = "STREAMCAP_MODEL_KEY"
_REMOTE_ONLY = (
    *("url", "fallback", "in_flight", "frames", "context", "image_size", "jpeg_quality", "max_tokens"),
    *("connect_timeout", "first_token_timeout", "timeout"),
)
_LOCAL_ONLY = ("vision", "tokenizer", "fit")
_FLAGS = {"url": "--model-url", "fallback": "--fallback"} | {name: f"--{name}" for name in _LOCAL_ONLY}
DEFAULT_PROMPT = "Describe what this image shows in one short sentence. Answer with the sentence only."
MAX_PROMPT_CHARACTERS = 4000


def check_prompt(prompt: str) -> str:
    """Return `prompt` if a model can be asked that. Raises InputError."""
    if not prompt.strip():
        raise InputError("--prompt: empty; leave it out for the default")
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InputError(f"--prompt: {len(prompt)} characters; at most {MAX_PROMPT_CHARACTERS}")
    return prompt


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One model. Times in seconds. Raises InputError for a value out of range."""

    model: str = "mini"
    """A name, file, directory or hub `owner/name`; or `openai:MODEL` with `url`."""
    device: str = "auto"
    precision: str = "auto"
    vision: str | None = None
    tokenizer: str | None = None
    fit: Fit | None = None
    """None: the model's own."""
    prompt: str | None = None
    """For models that take one; None: the model's default. A stream may have its own."""
    url: str | None = None
    """Base URL of the server of a remote model, such as http://127.0.0.1:11434/v1."""
    key: str | None = field(default=None, repr=False)
    """Sent as `Authorization: Bearer`; see `find_key`."""
    fallback: str | None = None
    """Name of the local model that captions while the server fails; None: no captions meanwhile."""
    in_flight: int = 4
    """Maximum requests at a time."""
    frames: int = 1
    """Images in one request, spread over the stream's `clip_seconds`."""
    context: bool = False
    """Whether a request quotes the stream's last caption."""
    image_size: int = 512
    """Longer side of an image in pixels; smaller images are not enlarged."""
    jpeg_quality: int = 80
    max_tokens: int = 300
    """Limit of one answer, reasoning included."""
    connect_timeout: float = 2.0
    first_token_timeout: float = 30.0
    """From the request to the first text; a server may have to load the model first."""
    timeout: float = 60.0
    """For the whole answer."""

    def __post_init__(self) -> None:
        if not self.model:
            raise InputError("--model: empty; `streamcap models` lists the names")
        if self.prompt is not None:
            check_prompt(self.prompt)
        if self.is_remote:
            self._check_remote()
        for name in _LOCAL_ONLY if self.is_remote else _REMOTE_ONLY:
            if getattr(self, name) != _DEFAULTS[name]:
                kind = "a local model" if self.is_remote else f"{REMOTE_PREFIX}MODEL"
                raise InputError(f"{_FLAGS.get(name, name)}: only for {kind}, but --model is {self.model}")

    def _check_remote(self) -> None:
        if not self.remote_name.strip():
            raise InputError(f"--model {self.model}: give the server's name of the model: {REMOTE_PREFIX}qwen2.5vl:7b")
        if self.url is None:
            raise InputError(
                f"--model {self.model}: needs --model-url, the server's base URL: http://127.0.0.1:11434/v1"
            )
        check_model_url(self.url)
        for name, least, most in (
            ("in_flight", 1, 256),
            ("frames", 1, 32),
            ("image_size", 32, 4096),
            ("jpeg_quality", 1, 100),
            ("max_tokens", 1, 100_000),
        ):
            if not least <= (value := getattr(self, name)) <= most:
                raise InputError(f"{name} {value}: {least} to {most}")
        for name in ("connect_timeout", "first_token_timeout", "timeout"):
            if not 0 < (seconds := getattr(self, name)) < math.inf:
                raise InputError(f"{name} {seconds:g}: seconds, above 0")
        if self.key is not None and not (
            self.key.isascii() and self.key.isprintable() and self.key == self.key.strip()
        ):
            raise InputError(f"{KEY_VARIABLE}: the key has characters that a header cannot carry")

    @property
    def is_remote(self) -> bool:
        return self.model.startswith(REMOTE_PREFIX)

    @property
    def remote_name(self) -> str:
        """The server's name of a remote model."""
        return self.model.removeprefix(REMOTE_PREFIX)


_DEFAULTS = {field.name: field.default for field in fields(ModelSettings)}


def check_model_url(url: str) -> str:
    """Return `url` if it can be a server's base URL. Raises InputError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError(f"--model-url {redact(url)}: invalid host or port") from None
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"--model-url {redact(url)}: an http:// or https:// URL, such as http://127.0.0.1:11434/v1")
    if parts.username is not None or parts.password is not None:
        raise InputError(
            f"--model-url {redact(url)}: give the key by {KEY_VARIABLE} or --model-key-file, not in the URL"
        )
    return url


def find_key(file: Path | None = None) -> str | None:
    """The key of a remote model: the content of `file`, else of the environment variable STREAMCAP_MODEL_KEY.

    Raises InputError, which never contains the key.
    """
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(f"--model-key-file {file}: {reason}") from None
    if not key:
        raise InputError(f"--model-key-file {file}: empty")
    return key
