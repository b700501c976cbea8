"""Renders docs/overlay.png: the real overlay over a built-in scene, with the caption that `mini` writes for it.

    python -m docs.render_overlay [docs/overlay.png]

Needs Chromium and the development packages. The service captions a video of the scene; a screenshot of the overlay,
with its transparency, is pasted over the frame.
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
from testbed.browser import chromium
from testbed.service import Service

SCRIPT = SceneScript(4, 3.0)
SCENE_TIME = 7.2
"""Two black horses on the sand."""
WIDTH, HEIGHT = 1280, 720
RATE = 5
SECONDS = 4
COLORS = 96
"""Size of the palette; it keeps the file below 200 kB."""


def write_video(path: Path) -> Image.Image:
    """Write the scene as a video file; returns its frame."""
    pixels = draw(SCRIPT.scene_at(SCENE_TIME), SCENE_TIME, WIDTH, HEIGHT)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", RATE, options={"preset": "veryfast", "crf": "12"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        for number in range(SECONDS * RATE):
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Image.fromarray(pixels)


async def screenshot(service: Service, video: Path) -> tuple[Image.Image, str]:
    """The overlay with its transparency, and its caption of `video`."""
    async with chromium() as browser:
        page = await (await browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})).new_page()
        await page.goto(f"{service.base}/overlay?name=0&hold=600&size=46")
        await page.request.post(
            f"{service.base}/streams", data={"name": "horses", "url": str(video)}, fail_on_status_code=True
        )
        await page.locator(".line[data-final=true][data-shown=true]").wait_for(timeout=120_000)
        await page.wait_for_timeout(500)  # it fades in
        shot = Image.open(io.BytesIO(await page.screenshot(omit_background=True)))
        return shot, await page.locator(".line span").inner_text()


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/overlay.png")
    with tempfile.TemporaryDirectory() as directory:
        video = Path(directory) / "horses.mp4"
        image = write_video(video)
        # The video is added once the overlay is open; until then the service waits for a publisher that never comes.
        with Service("idle=whip:", "--every", "1", "--max-age", "600", "--allow-local") as service:
            overlay, text = asyncio.run(screenshot(service, video))
    image.paste(overlay, mask=overlay.getchannel("A"))
    image.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB, {text}")  # noqa: T201 - the script's output


if __name__ == "__main__":
    main()
