"""The contact sheet: images with their captions and references; the best, the worst, and some at random."""

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
    judged: Sequence[EvaluatedCaption], image: Callable[[str], Image.Image | None], target: Path, *, seed: int = 0
) -> None:
    """Three rows of `COLUMNS` images, by CIDEr: best, worst, random. `image` gives an item's image by name, None
    where there is none to show."""
    order = sorted(range(len(judged)), key=lambda i: judged[i].cider)
    rng = np.random.default_rng(seed)
    anyhow = rng.permutation(len(judged))[:COLUMNS].tolist()
    rows = {"best": order[::-1][:COLUMNS], "worst": order[:COLUMNS], "random": anyhow}
    height = CELL_PIXELS + TEXT_PIXELS
    sheet = Image.new("RGB", (COLUMNS * (CELL_PIXELS + 8) + 8, len(rows) * (height + 22) + 8), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for row, (title, chosen) in enumerate(rows.items()):
        top = 8 + row * (height + 22)
        draw.text((8, top), title, fill="black", font=font)
        for column, index in enumerate(chosen):
            _cell(sheet, draw, font, judged[index], image, 8 + column * (CELL_PIXELS + 8), top + 18)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    atomic_write(target, content.getvalue(), sync=True, error=StreamcapError)


def _cell(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    one: EvaluatedCaption,
    image: Callable[[str], Image.Image | None],
    left: int,
    top: int,
) -> None:
    shown = image(one.name)
    if shown is None:
        draw.rectangle((left, top, left + CELL_PIXELS, top + CELL_PIXELS), fill="lightgrey")
    else:
        shown = shown.convert("RGB")
        shown.thumbnail((CELL_PIXELS, CELL_PIXELS))
        sheet.paste(shown, (left, top))
    lines = [(line, "black") for line in textwrap.wrap(one.caption or "(nothing)", _CHARACTERS)[:3]]
    lines.append((f"CIDEr {one.cider:.2f}  logprob {one.logprob:.2f}", "darkgreen"))
    for reference in one.references:
        lines += [(line, "dimgrey") for line in textwrap.wrap(reference, _CHARACTERS)]
    for number, (line, color) in enumerate(lines[: TEXT_PIXELS // _LINE_PIXELS]):
        draw.text((left, top + CELL_PIXELS + 2 + number * _LINE_PIXELS), line, fill=color, font=font)
