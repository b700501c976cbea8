"""Draw a caption under an image."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

# A caption under a smaller image would be unreadable.
_MIN_WIDTH = 320
_MIN_FONT, _MAX_FONT = 14, 64
# Pillow's default font is the last resort: it covers few letters beyond ASCII.
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "Helvetica.ttc")
_TEXT_COLOR, _BACKGROUND = (245, 245, 245), (16, 16, 16)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def annotate(image: Image.Image, text: str) -> Image.Image:
    """An RGB copy of `image`, extended downward by `text` in as many lines as it needs, white on black.

    An image narrower than 320 pixels is centered in that width.
    """
    width = max(image.width, _MIN_WIDTH)
    size = min(_MAX_FONT, max(_MIN_FONT, round(width / 28)))
    font = _font(size)
    margin = size * 0.6
    lines = _wrap(text, font, width - 2 * margin)
    line_height = size * 1.35
    band = round(line_height * len(lines) + 2 * margin)
    page = Image.new("RGB", (width, image.height + band), _BACKGROUND)
    page.paste(image.convert("RGB"), ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        middle = image.height + margin + line_height * (number + 0.5)
        draw.text((width / 2, middle), line, _TEXT_COLOR, font, anchor="mm")
    return page


def _font(size: int) -> Font:
    for name in _FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _wrap(text: str, font: Font, width: float) -> list[str]:
    """Wrap `text` between words into lines of at most `width` pixels; a wider word is split."""
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
