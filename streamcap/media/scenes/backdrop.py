"""Backdrops of scenes: sky, horizon and ground, which repeat horizontally so that they can scroll."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from streamcap.media.scenes.canvas import Color, shade

_GROUND: dict[str, tuple[Color, Color]] = {
    "grass": ((104, 168, 72), (58, 118, 40)),
    "road": ((112, 112, 116), (82, 82, 88)),
    "sand": ((234, 208, 150), (208, 172, 108)),
    "snow": ((236, 242, 250), (206, 218, 236)),
    "water": ((92, 156, 196), (24, 84, 140)),
    "room": ((176, 126, 80), (138, 92, 54)),
}
_SKIES: tuple[tuple[Color, Color], ...] = (
    ((106, 170, 232), (206, 230, 246)),
    ((140, 186, 226), (226, 234, 238)),
    ((150, 164, 182), (214, 216, 220)),
    ((104, 140, 210), (248, 206, 168)),
)
_SNOW_SKIES: tuple[tuple[Color, Color], ...] = (
    ((136, 160, 190), (196, 208, 224)),
    ((120, 146, 178), (204, 206, 216)),
)
_WALLS: tuple[Color, ...] = ((222, 206, 176), (196, 208, 196), (206, 196, 214), (214, 190, 176))


@dataclass(frozen=True)
class Backdrop:
    """`pixels` (H, W, 3) repeats horizontally. Rows above `horizon` are far away and scroll slowly."""

    pixels: npt.NDArray[np.uint8]
    horizon: int

    def at(self, far_px: int, near_px: int) -> npt.NDArray[np.uint8]:
        """A copy, scrolled to the left by a number of pixels above and below the horizon."""
        out = np.empty_like(self.pixels)
        width = self.pixels.shape[1]
        for rows, shift in ((slice(0, self.horizon), far_px % width), (slice(self.horizon, None), near_px % width)):
            out[rows, : width - shift] = self.pixels[rows, shift:]
            out[rows, width - shift :] = self.pixels[rows, :shift]
        return out


def horizon_of(place: str, look: int) -> float:
    """Top of the ground as a fraction of the height."""
    base = 0.6 if place == "room" else 0.46
    return base + 0.08 * (look // 7 % 8) / 7


def backdrop(place: str, look: int, width: int, height: int) -> Backdrop:
    """Draw one backdrop. Deterministic."""
    rng = np.random.default_rng((look, width, height))
    horizon = max(1, min(height - 1, round(horizon_of(place, look) * height)))
    near, far = _GROUND[place][1], _GROUND[place][0]
    if place == "room":
        wall = _WALLS[look % len(_WALLS)]
        sky: tuple[Color, Color] = (shade(wall, 1.04), shade(wall, 0.92))
    elif place == "snow":
        sky = _SNOW_SKIES[look % len(_SNOW_SKIES)]
    else:
        sky = _SKIES[look % len(_SKIES)]
    light = 0.92 + 0.14 * (look // 3 % 5) / 4
    rows = np.concatenate([_blend(*sky, horizon), _blend(far, near, height - horizon)]) * light
    pixels = np.repeat(np.clip(rows, 0, 255).astype(np.uint8)[:, None], width, axis=1)
    image = Image.fromarray(pixels)
    canvas = _Wrapped(image, rng)
    if place == "room":
        _room(canvas, horizon)
    else:
        _sky(canvas, horizon, place)
        _GROUNDS[place](canvas, horizon)
    grain = rng.integers(-5, 6, (height - horizon, width, 1), dtype=np.int16)
    done = np.array(image)
    done[horizon:] = np.clip(done[horizon:].astype(np.int16) + grain, 0, 255)
    return Backdrop(done, horizon)


def _blend(top: Color, bottom: Color, rows: int) -> npt.NDArray[np.float64]:
    t = np.linspace(0, 1, rows)[:, None]
    return np.asarray(top) * (1 - t) + np.asarray(bottom) * t


class _Wrapped:
    """A canvas that wraps around horizontally."""

    def __init__(self, image: Image.Image, rng: np.random.Generator) -> None:
        self.width, self.height = image.size
        self.rng = rng
        self._draw = ImageDraw.Draw(image, "RGBA")

    def _copies(self, xs: list[float]) -> list[int]:
        return [0, *([self.width] if min(xs) < 0 else []), *([-self.width] if max(xs) > self.width else [])]

    def polygon(self, points: list[tuple[float, float]], color: tuple[int, ...]) -> None:
        for dx in self._copies([x for x, _ in points]):
            self._draw.polygon([(x + dx, y) for x, y in points], fill=color)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: tuple[int, ...]) -> None:
        for dx in self._copies([x - rx, x + rx]):
            self._draw.ellipse((x + dx - rx, y - ry, x + dx + rx, y + ry), fill=color)

    def line(self, x0: float, y0: float, x1: float, y1: float, color: tuple[int, ...], width: int) -> None:
        for dx in self._copies([x0, x1]):
            self._draw.line((x0 + dx, y0, x1 + dx, y1), fill=color, width=width)

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))


def _sky(canvas: _Wrapped, horizon: int, place: str) -> None:
    w, h = canvas.width, canvas.height
    if canvas.uniform(0, 1) < 0.5:
        canvas.ellipse(canvas.uniform(0.1, 0.9) * w, 0.12 * h, 0.05 * h, 0.05 * h, (255, 240, 190, 230))
    for _ in range(int(canvas.rng.integers(1, 4))):
        x, y, s = canvas.uniform(0, w), canvas.uniform(0.06, 0.24) * h, canvas.uniform(0.03, 0.055) * h
        for dx, dy, r in ((-1.6, 0.2, 0.8), (-0.5, -0.2, 1.1), (0.7, -0.1, 1.0), (1.7, 0.25, 0.7)):
            canvas.ellipse(x + dx * s, y + dy * s, 1.3 * r * s, 0.75 * r * s, (250, 250, 252, 190))
    if place == "water":
        return
    hill = {"grass": (92, 142, 92), "road": (118, 138, 126), "sand": (222, 190, 138), "snow": (214, 224, 238)}[place]
    for _ in range(3):
        x, rise, reach = canvas.uniform(0, w), canvas.uniform(0.05, 0.13) * h, canvas.uniform(0.2, 0.35) * w
        canvas.polygon(
            [(x + reach * (i / 10 - 1), horizon - rise * math.sin(math.pi * i / 20)) for i in range(21)],
            (*shade(hill, canvas.uniform(0.9, 1.05)), 255),
        )
    if place in ("grass", "snow"):
        for _ in range(int(canvas.rng.integers(2, 5))):
            _tree(canvas, canvas.uniform(0, w), horizon + 0.01 * h, canvas.uniform(0.12, 0.2) * h, place == "snow")
    elif place == "road":
        for _ in range(int(canvas.rng.integers(3, 6))):
            _house(canvas, canvas.uniform(0, w), horizon, canvas.uniform(0.08, 0.18) * h)


def _tree(canvas: _Wrapped, x: float, y: float, size: float, winter: bool) -> None:
    canvas.line(x, y, x, y - 0.4 * size, (92, 68, 48, 255), max(1, round(0.09 * size)))
    for i in range(3):
        top, base = y - size * (1 - 0.22 * i) - 0.1 * size, y - size * (0.62 - 0.22 * i)
        half = size * (0.17 + 0.07 * i)
        canvas.polygon(
            [(x, top), (x + half, base), (x - half, base)], (64, 108, 84, 255) if winter else (48, 108, 56, 255)
        )
        if winter:
            canvas.polygon(
                [(x, top), (x + half * 0.45, top + (base - top) * 0.45), (x - half * 0.45, top + (base - top) * 0.45)],
                (240, 245, 252, 255),
            )


def _house(canvas: _Wrapped, x: float, y: float, size: float) -> None:
    half = size * canvas.uniform(0.4, 0.8)
    tone = round(canvas.uniform(130, 176))
    canvas.polygon(
        [(x - half, y), (x - half, y - size), (x + half, y - size), (x + half, y)], (tone, tone - 4, tone - 10, 255)
    )
    for i in range(3):
        for j in range(2):
            wx, wy, s = x + (i - 1) * half * 0.6, y - size * (0.75 - 0.4 * j), size * 0.07
            canvas.polygon(
                [(wx - s, wy - s), (wx + s, wy - s), (wx + s, wy + s), (wx - s, wy + s)], (96, 106, 122, 255)
            )


def _grass(canvas: _Wrapped, horizon: int) -> None:
    h = canvas.height
    for _ in range(90):
        depth = canvas.uniform(0, 1) ** 0.7
        x, y = canvas.uniform(0, canvas.width), horizon + depth * (h - horizon)
        s = (0.008 + 0.026 * depth) * h
        tone = (*shade((86, 150, 58), canvas.uniform(0.72, 1.25)), 255)
        for dx in (-0.5, 0.0, 0.5):
            canvas.line(x, y, x + dx * s, y - s, tone, max(1, round(0.004 * h)))


def _road(canvas: _Wrapped, horizon: int) -> None:
    w, h = canvas.width, canvas.height
    ground = h - horizon
    verge = horizon + 0.1 * ground
    canvas.polygon([(0, horizon), (w, horizon), (w, verge), (0, verge)], (112, 140, 88, 255))
    canvas.polygon(
        [(0, verge), (w, verge), (w, verge + 0.03 * ground), (0, verge + 0.03 * ground)], (206, 206, 204, 255)
    )
    lane, thick = horizon + 0.66 * ground, 0.045 * ground
    for i in range(4):
        x = (i + 0.25) * w / 4
        canvas.polygon(
            [(x, lane), (x + w / 8, lane), (x + w / 8 - thick, lane + thick), (x - thick, lane + thick)],
            (238, 234, 216, 255),
        )


def _sand(canvas: _Wrapped, horizon: int) -> None:
    w, h = canvas.width, canvas.height
    for _ in range(26):
        depth = canvas.uniform(0.02, 1)
        x, y = canvas.uniform(0, w), horizon + depth * (h - horizon)
        reach = (0.04 + 0.1 * depth) * w
        canvas.polygon(
            [(x - reach, y), (x, y - 0.006 * h), (x + reach, y), (x, y + 0.01 * h * depth)],
            (*shade((206, 168, 104), canvas.uniform(0.9, 1.12)), 255),
        )
    for _ in range(14):
        canvas.ellipse(
            canvas.uniform(0, w), canvas.uniform(horizon + 0.03 * h, h), 0.008 * h, 0.005 * h, (166, 136, 96, 255)
        )


def _snow(canvas: _Wrapped, horizon: int) -> None:
    w, h = canvas.width, canvas.height
    for _ in range(16):
        depth = canvas.uniform(0.05, 1)
        x, y = canvas.uniform(0, w), horizon + depth * (h - horizon)
        canvas.ellipse(
            x,
            y,
            (0.05 + 0.12 * depth) * w,
            (0.008 + 0.02 * depth) * h,
            (*shade((226, 234, 246), canvas.uniform(0.93, 1.06)), 255),
        )
    for _ in range(50):
        canvas.ellipse(canvas.uniform(0, w), canvas.uniform(0, horizon), 0.005 * h, 0.005 * h, (250, 252, 255, 220))


def _water(canvas: _Wrapped, horizon: int) -> None:
    w, h = canvas.width, canvas.height
    for _ in range(70):
        depth = canvas.uniform(0, 1)
        x, y = canvas.uniform(0, w), horizon + depth * (h - horizon)
        reach, rise = (0.012 + 0.05 * depth) * w, (0.003 + 0.009 * depth) * h
        tone = (*shade((120, 182, 216), canvas.uniform(0.75, 1.2)), 190)
        canvas.polygon([(x + reach * (i / 5 - 1), y - rise * math.sin(math.pi * i / 10)) for i in range(11)], tone)


def _room(canvas: _Wrapped, horizon: int) -> None:
    w, h = canvas.width, canvas.height
    canvas.polygon([(0, horizon - 0.03 * h), (w, horizon - 0.03 * h), (w, horizon), (0, horizon)], (240, 236, 228, 255))
    for i in range(7):
        x = (i + 0.5) * w / 7
        canvas.line(x, horizon, x + (x - w / 2) * 0.9, h, (110, 72, 42, 255), max(1, round(0.004 * h)))
    for depth in (0.25, 0.55):
        y = horizon + depth * (h - horizon)
        canvas.line(0, y, w, y, (122, 80, 46, 255), max(1, round(0.003 * h)))
    x, top, half = canvas.uniform(0.15, 0.85) * w, 0.1 * h, 0.15 * h
    canvas.polygon(
        [
            (x - half - 4, top - 4),
            (x + half + 4, top - 4),
            (x + half + 4, top + 0.3 * h + 4),
            (x - half - 4, top + 0.3 * h + 4),
        ],
        (246, 244, 238, 255),
    )
    canvas.polygon(
        [(x - half, top), (x + half, top), (x + half, top + 0.3 * h), (x - half, top + 0.3 * h)], (168, 210, 240, 255)
    )
    canvas.line(x, top, x, top + 0.3 * h, (246, 244, 238, 255), max(1, round(0.012 * h)))
    canvas.line(x - half, top + 0.15 * h, x + half, top + 0.15 * h, (246, 244, 238, 255), max(1, round(0.012 * h)))
    x = (x + 0.45 * w) % w
    canvas.polygon(
        [(x - 0.09 * h, 0.14 * h), (x + 0.09 * h, 0.14 * h), (x + 0.09 * h, 0.32 * h), (x - 0.09 * h, 0.32 * h)],
        (120, 84, 52, 255),
    )
    canvas.polygon(
        [(x - 0.07 * h, 0.16 * h), (x + 0.07 * h, 0.16 * h), (x + 0.07 * h, 0.3 * h), (x - 0.07 * h, 0.3 * h)],
        (204, 214, 190, 255),
    )


_GROUNDS = {"grass": _grass, "road": _road, "sand": _sand, "snow": _snow, "water": _water}
