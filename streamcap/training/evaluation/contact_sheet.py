"""Contact sheet: images with captions and references, for the best, the worst and random captions."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from streamcap.atomic import atomic_write
from streamcap.errors import StreamcapError
from streamcap.training.evaluation.evaluation import EvaluatedCaption

CELL_PIXELS = 200
TEXT_PIXELS = 120
COLUMNS = 6
_LINE_PIXELS = 13
_CHARACTERS = 33


def draw_contact_sheet(
    captions: Sequence[EvaluatedCaption], image: Callable[[str], Image.Image | None], target: Path, *, seed: int = 0
) -> None:
    """Write three rows of `COLUMNS` images as PNG: best and worst by CIDEr, and random.

    image: returns the image of an item name, None if there is none. Raises StreamcapError if the write fails.
    """
    order = sorted(range(len(captions)), key=lambda i: captions[i].cider)
    rng = np.random.default_rng(seed)
    random = rng.permutation(len(captions))[:COLUMNS].tolist()
    rows = {"best": order[::-1][:COLUMNS], "worst": order[:COLUMNS], "random": random}
    height = CELL_PIXELS + TEXT_PIXELS
    sheet = Image.new("RGB", (COLUMNS * (CELL_PIXELS + 8) + 8, len(rows) * (height + 22) + 8), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for row, (title, chosen) in enumerate(rows.items()):
        top = 8 + row * (height + 22)
        draw.text((8, top), title, fill="black", font=font)
        for column, index in enumerate(chosen):
            _draw_cell(sheet, draw, font, captions[index], image, 8 + column * (CELL_PIXELS + 8), top + 18)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    atomic_write(target, content.getvalue(), sync=True, error=StreamcapError)


def _draw_cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    caption: EvaluatedCaption,
    image: Callable[[str], Image.Image | None],
    left: int,
    top: int,
) -> None:
    thumbnail = image(caption.name)
    if thumbnail is None:
        draw.rectangle((left, top, left + CELL_PIXELS, top + CELL_PIXELS), fill="lightgrey")
    else:
        thumbnail = thumbnail.convert("RGB")
        thumbnail.thumbnail((CELL_PIXELS, CELL_PIXELS))
        sheet.paste(thumbnail, (left, top))
    lines = [(line, "black") for line in textwrap.wrap(caption.caption or "(empty)", _CHARACTERS)[:3]]
    lines.append((f"CIDEr {caption.cider:.2f}  logprob {caption.logprob:.2f}", "darkgreen"))
    for reference in caption.references:
        lines += [(line, "dimgrey") for line in textwrap.wrap(reference, _CHARACTERS)]
    for number, (line, color) in enumerate(lines[: TEXT_PIXELS // _LINE_PIXELS]):
        draw.text((left, top + CELL_PIXELS + 2 + number * _LINE_PIXELS), line, fill=color, font=font)
