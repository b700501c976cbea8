"""Renders docs/overlay.png: the real overlay over a built-in scene, with the caption that `mini` writes for it.

    python -m docs.render_overlay [docs/overlay.png]

Needs Chromium and the development packages. The service captions a film of the scene; the overlay is photographed with
its transparency and laid over the frame.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from pathlib import Path

import av
from PIL import Image

from streamcap.media.scenes import SceneScript, draw
from tests.end_to_end.service import Service
from tests.server.browser import chromium

SCRIPT = SceneScript(4, 3.0)
SCENE_TIME = 7.2
"""Two black horses on the sand."""
WIDTH, HEIGHT = 1280, 720
RATE = 5
SECONDS = 4
COLORS = 96
"""Of the palette: the picture stays below 200 kB."""


def write_film(path: Path) -> Image.Image:
    """The scene as a video file; gives its frame."""
    pixels = draw(SCRIPT.scene_at(SCENE_TIME), SCENE_TIME, WIDTH, HEIGHT)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", RATE, options={"preset": "veryfast", "crf": "12"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        for number in range(SECONDS * RATE):
            frame.pts = number
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    return Image.fromarray(pixels)


async def photograph(service: Service, film: Path) -> tuple[Image.Image, str]:
    """The overlay with its transparency, and what it says once `film` is played."""
    async with chromium() as browser:
        page = await (await browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})).new_page()
        await page.goto(f"{service.base}/overlay?name=0&hold=600&size=46")
        await page.request.post(
            f"{service.base}/streams", data={"name": "horses", "url": str(film)}, fail_on_status_code=True
        )
        await page.locator(".line[data-final=true][data-shown=true]").wait_for(timeout=120_000)
        await page.wait_for_timeout(500)  # it fades in
        shot = Image.open(io.BytesIO(await page.screenshot(omit_background=True)))
        return shot, await page.locator(".line span").inner_text()


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/overlay.png")
    with tempfile.TemporaryDirectory() as directory:
        film = Path(directory) / "horses.mp4"
        picture = write_film(film)
        # The film begins when the overlay is there; until then the service waits for a publisher that never comes.
        with Service("idle=whip:", "--every", "1", "--max-age", "600", "--allow-local") as service:
            overlay, text = asyncio.run(photograph(service, film))
    picture.paste(overlay, mask=overlay.getchannel("A"))
    picture.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB, {text}")  # noqa: T201 - this is what it is run for


if __name__ == "__main__":
    main()
