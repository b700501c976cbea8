"""An image with its caption drawn under it."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

# A caption under a smaller image could not be read.
_LEAST_WIDTH = 320
_LEAST_FONT, _MOST_FONT = 14, 64
# Pillow's own font knows no letters beyond ASCII.
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc")
_INK, _PAPER = (245, 245, 245), (16, 16, 16)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def annotate(image: Image.Image, text: str) -> Image.Image:
    """RGB: the whole image with `text` under it, white on black, broken into as many lines as it needs.

    An image narrower than 320 pixels is put in the middle of that width.
    """
    width = max(image.width, _LEAST_WIDTH)
    size = min(_MOST_FONT, max(_LEAST_FONT, round(width / 28)))
    font = _font(size)
    margin = size * 0.6
    lines = _broken(text, font, width - 2 * margin)
    line_height = size * 1.35
    band = round(line_height * len(lines) + 2 * margin)
    page = Image.new("RGB", (width, image.height + band), _PAPER)
    page.paste(image.convert("RGB"), ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        middle = image.height + margin + line_height * (number + 0.5)
        draw.text((width / 2, middle), line, _INK, font, anchor="mm")
    return page


def _font(size: int) -> Font:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _broken(text: str, font: Font, width: float) -> list[str]:
    """`text` in lines of at most `width` pixels, broken between words; a word wider than that is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
