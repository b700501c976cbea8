from __future__ import annotations

import base64
import json

import pytest

from streamcap.engine.model_settings import ModelSettings
from streamcap.engine.remote.request import JpegImage, body, endpoint, headers

URL = "http://127.0.0.1:11434/v1"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://host:11434", "http://host:11434/v1/chat/completions"),
        ("http://host:11434/", "http://host:11434/v1/chat/completions"),
        ("http://host/v1/", "http://host/v1/chat/completions"),
        ("https://host/api/v1/chat/completions", "https://host/api/v1/chat/completions"),
        ("https://host/openai?api-version=1", "https://host/openai/chat/completions?api-version=1"),
    ],
)
def test_address_is_made_of_base_url(url: str, address: str) -> None:
    assert endpoint(url) == address


def test_request_is_what_openai_documents() -> None:
    settings = ModelSettings("openai:qwen2.5vl:7b", url=URL, prompt="What happens?", max_tokens=50)
    sent = json.loads(body(settings, [JpegImage(b"\xff\xd8jpeg", 0.0)]))
    (message,) = sent.pop("messages")
    assert sent == {
        "model": "qwen2.5vl:7b",
        "max_tokens": 50,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text, image = message["content"]
    assert (message["role"], text) == ("user", {"type": "text", "text": "What happens?"})
    kind, _, data = image["image_url"]["url"].partition(",")
    assert (image["type"], kind, base64.b64decode(data)) == ("image_url", "data:image/jpeg;base64", b"\xff\xd8jpeg")


def test_request_has_prompt_frames_and_context() -> None:
    settings = ModelSettings("openai:m", url=URL, prompt="of the model", context=True)
    images = [JpegImage(b"1", 3.0), JpegImage(b"2", 1.5), JpegImage(b"3", 0.0)]
    content = json.loads(body(settings, images, prompt="of the stream", last_caption="A man."))["messages"][0][
        "content"
    ]
    first, *others = content[0]["text"].split("\n")
    assert first == "of the stream"
    assert "3 images" in others[0] and "3.0, 1.5, 0.0 seconds ago" in others[0]
    assert others[1].endswith("A man.")
    assert len(content) == 4
    plain = json.loads(body(ModelSettings("openai:m", url=URL), images[:1], last_caption="A man."))
    assert "A man." not in plain["messages"][0]["content"][0]["text"]


def test_key_goes_into_the_header_only() -> None:
    settings = ModelSettings("openai:m", url=URL, key="sk-1")
    assert headers(settings.key)["Authorization"] == "Bearer sk-1"
    assert "Authorization" not in headers(None)
    assert b"sk-1" not in body(settings, [JpegImage(b"1", 0.0)])
