"""Streamed answers in the forms that servers document or send. Shortened to what matters here.

OLLAMA: docs.ollama.com/api/openai-compatibility; chunks as in github.com/g0t4/ask-openai.nvim, sse_parse_notes.md.
VLLM: docs.vllm.ai, serving/openai_compatible_server and openai_chat_completion_with_reasoning_streaming.
LLAMA_CPP: llama-server's chunks as in github.com/g0t4/ask-openai.nvim, harmony/NOTES.md.
"""

from __future__ import annotations

import json
from typing import Any


def event(choices: list[dict[str, Any]], **others: Any) -> str:
    return "data: " + json.dumps({"id": "chatcmpl-7", "object": "chat.completion.chunk", "choices": choices} | others)


def choice(delta: dict[str, Any], finish: str | None = None, **others: Any) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": finish} | others


def stream(*events: str) -> bytes:
    return "".join(f"{one}\n\n" for one in events).encode()


USAGE = {"prompt_tokens": 340, "completion_tokens": 6, "total_tokens": 346}

OLLAMA = stream(
    event([choice({"role": "assistant", "content": "", "reasoning": "The user"})], system_fingerprint="fp_ollama"),
    event([choice({"role": "assistant", "content": "A man"})], system_fingerprint="fp_ollama"),
    event([choice({"role": "assistant", "content": " opens a door."})], system_fingerprint="fp_ollama"),
    event([choice({"role": "assistant", "content": ""}, "stop")], system_fingerprint="fp_ollama"),
    event([], system_fingerprint="fp_ollama", usage=USAGE),
    "data: [DONE]",
)
VLLM = stream(
    event([choice({"role": "assistant", "content": ""}, logprobs=None)], prompt_token_ids=None),
    event([choice({"reasoning_content": "I see", "reasoning": "I see"}, logprobs=None, token_ids=None)]),
    event([choice({"content": "A man"}, logprobs=None, token_ids=None)], usage=None),
    event([choice({"content": " opens a door."}, "stop", logprobs=None, stop_reason=None)]),
    event([], usage=USAGE | {"prompt_tokens_details": None}),
    "data: [DONE]",
)
LLAMA_CPP = stream(
    event([choice({"role": "assistant", "content": None})], system_fingerprint="b6881-8b11deea4"),
    event([choice({"reasoning_content": "We"})]),
    event([choice({"content": "A man opens a door."})]),
    event([choice({}, "stop")], usage=USAGE, timings={"prompt_n": 340, "predicted_ms": 933.63}),
    "data: [DONE]",
)
ALL = {"ollama": OLLAMA, "vllm": VLLM, "llama.cpp": LLAMA_CPP}
