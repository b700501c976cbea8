"""The client against `transformers serve`: a server that we did not write, with a small random model, over HTTP."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from streamcap.engine.model_settings import ModelSettings
from streamcap.engine.remote.client import RemoteClient
from streamcap.engine.remote.failure import RemoteError
from streamcap.engine.remote.remote_model import to_jpeg
from streamcap.engine.remote.request import JpegImage, body
from testbed.programs import require_package
from testbed.timeouts import TIMEOUT_FACTOR
from tests.captioner.hub.random_models import llava

LONG_TIMEOUTS: dict[str, Any] = {"first_token_timeout": TIMEOUT_FACTOR, "timeout": TIMEOUT_FACTOR}
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Its base URL, and the directory of the model."""
    require_package("openai", "accelerate")  # `transformers serve` needs them
    directory = tmp_path_factory.mktemp("llava")
    llava(directory)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--device", "cpu"]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)])
    try:
        yield f"http://127.0.0.1:{port}/v1", directory
    finally:
        process.terminate()
        process.wait(TIMEOUT_FACTOR)


async def until_ready(url: str) -> None:
    async with asyncio.timeout(TIMEOUT_FACTOR), httpx.AsyncClient(trust_env=False) as http:
        while True:
            try:
                await http.get(f"{url}/models")
            except httpx.HTTPError:
                await asyncio.sleep(0.2)
            else:
                return


async def test_transformers_serve_captions_an_image(server: tuple[str, Path]) -> None:
    url, directory = server
    await until_ready(url)
    settings = ModelSettings(f"openai:{directory}", url=url, max_tokens=12, **LONG_TIMEOUTS)
    picture = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    request = body(settings, [JpegImage(to_jpeg(picture, 80), 0.0)], prompt="describe this image")
    client, texts = RemoteClient(settings), []
    answer = await client.ask(request, texts.append)
    assert answer.text.split() and answer.text == texts[-1]
    assert len(texts) > 1, "streamed"
    assert answer.usage.tokens_in > 4 and 0 < answer.usage.tokens_out <= 12
    again = await client.ask(request)
    assert again.text == answer.text, "temperature 0"
    await client.close()


async def test_transformers_serve_refuses_an_unknown_model(server: tuple[str, Path]) -> None:
    url, directory = server
    await until_ready(url)
    settings = ModelSettings(f"openai:{directory}-x", url=url, **LONG_TIMEOUTS)
    client = RemoteClient(settings)
    with pytest.raises(RemoteError, match=r"^(4|5)\d\d: "):
        await client.ask(body(settings, [JpegImage(to_jpeg(np.zeros((8, 8, 3), np.uint8), 80), 0.0)]))
    await client.close()
