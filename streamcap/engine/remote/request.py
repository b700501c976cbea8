"""The request of one caption, as OpenAI's chat completions with images describe it. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from streamcap.engine.model_settings import DEFAULT_PROMPT, ModelSettings

_PATH = "/chat/completions"
DEFAULT_SEQUENCE_PROMPT = "Describe what happens in one short sentence. Answer with the sentence only."


@dataclass(frozen=True, slots=True)
class JpegImage:
    data: bytes
    age: float
    """Seconds before the newest image."""


def endpoint(url: str) -> str:
    """The address for requests of a server with base URL `url`, which may lack `/v1` or be the whole address."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/") or "/v1"
    return urlunsplit(parts._replace(path=path if path.endswith(_PATH) else path + _PATH, fragment=""))


def headers(key: str | None) -> dict[str, str]:
    plain = {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
    return plain if key is None else {**plain, "Authorization": f"Bearer {key}"}


def body(
    settings: ModelSettings, images: Sequence[JpegImage], *, prompt: str | None = None, last_caption: str = ""
) -> bytes:
    """The request's JSON.

    images: oldest first, at least one. prompt: the stream's; None: the model's. last_caption: quoted if it is not
    empty and `settings.context` is set.
    """
    content: list[dict[str, object]] = [{"type": "text", "text": question(settings, images, prompt, last_caption)}]
    for image in images:
        url = "data:image/jpeg;base64," + base64.b64encode(image.data).decode("ascii")
        content.append({"type": "image_url", "image_url": {"url": url}})
    message: dict[str, object] = {
        "model": settings.remote_name,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": settings.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def question(settings: ModelSettings, images: Sequence[JpegImage], prompt: str | None, last_caption: str) -> str:
    """The text that goes with the images."""
    several = len(images) > 1
    lines = [prompt or settings.prompt or (DEFAULT_SEQUENCE_PROMPT if several else DEFAULT_PROMPT)]
    if several:
        ages = ", ".join(f"{image.age:.1f}" for image in images)
        lines.append(f"The {len(images)} images are frames of one video, oldest first, taken {ages} seconds ago.")
    if settings.context and last_caption:
        lines.append(f"The caption before this one was: {last_caption}")
    return "\n".join(lines)
