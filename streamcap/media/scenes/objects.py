"""Vehicles and balls. Each function draws one figure facing right, standing at the origin."""

from __future__ import annotations

import math

from streamcap.media.scenes.canvas import PAINT, Canvas, Color, FigurePoint, shade
from streamcap.media.scenes.figures import HAIRS, SKINS

_GLASS: Color = (176, 212, 232)
_TYRE: Color = (32, 32, 36)


def _wheel(canvas: Canvas, center: FigurePoint, radius: float, phase: float) -> None:
    canvas.ellipse(center, radius, radius, _TYRE)
    canvas.ellipse(center, radius * 0.6, radius * 0.6, (200, 200, 206), outlined=False)
    for spoke in range(3):
        a = -phase * math.tau / 3 + spoke * math.tau / 3
        tip = (center[0] + radius * 0.55 * math.cos(a), center[1] + radius * 0.55 * math.sin(a))
        canvas.limb([center, tip], radius * 0.16, (96, 96, 102), outlined=False)


def car(color: str, action: str, phase: float, look: int) -> Canvas:
    """A low saloon car with two windows."""
    canvas = Canvas()
    paint = PAINT[color]
    canvas.polygon([(-0.4, 0.3), (-0.26, 0.52), (0.16, 0.52), (0.36, 0.3)], paint)
    canvas.polygon([(-0.66, 0.12), (-0.68, 0.28), (-0.6, 0.34), (0.42, 0.34), (0.66, 0.27), (0.68, 0.12)], paint)
    canvas.polygon([(-0.33, 0.33), (-0.23, 0.47), (-0.05, 0.47), (-0.05, 0.33)], _GLASS, outlined=False)
    canvas.polygon([(0.0, 0.33), (0.0, 0.47), (0.13, 0.47), (0.27, 0.33)], _GLASS, outlined=False)
    canvas.ellipse((0.63, 0.24), 0.04, 0.03, (255, 246, 190), outlined=False)
    for x in (-0.4, 0.4):
        _wheel(canvas, (x, 0.125), 0.125, phase)
    return canvas


def bus(color: str, action: str, phase: float, look: int) -> Canvas:
    """A long high box with a row of windows."""
    canvas = Canvas()
    paint = PAINT[color]
    canvas.polygon([(-0.85, 0.13), (-0.85, 0.72), (-0.8, 0.78), (0.8, 0.78), (0.86, 0.7), (0.86, 0.13)], paint)
    for i in range(5):
        x = -0.78 + i * 0.29
        canvas.polygon([(x, 0.42), (x, 0.66), (x + 0.23, 0.66), (x + 0.23, 0.42)], _GLASS, outlined=False)
    canvas.polygon([(0.7, 0.2), (0.7, 0.66), (0.83, 0.66), (0.83, 0.2)], _GLASS, outlined=False)
    canvas.polygon([(-0.85, 0.28), (-0.85, 0.32), (0.68, 0.32), (0.68, 0.28)], shade(paint, 0.7), outlined=False)
    for x in (-0.52, 0.5):
        _wheel(canvas, (x, 0.13), 0.13, phase)
    return canvas


def truck(color: str, action: str, phase: float, look: int) -> Canvas:
    """An open truck: a cab in front, planks behind with logs on them."""
    canvas = Canvas()
    paint = PAINT[color]
    for i in range(3):
        canvas.ellipse((-0.56 + i * 0.25, 0.5), 0.125, 0.125, (168, 120, 70))
    for i in range(2):
        canvas.ellipse((-0.43 + i * 0.25, 0.69), 0.125, 0.125, (190, 142, 88))
    canvas.polygon([(-0.78, 0.2), (-0.78, 0.42), (0.18, 0.42), (0.18, 0.2)], shade(paint, 0.85))
    canvas.polygon([(0.2, 0.13), (0.2, 0.8), (0.5, 0.8), (0.62, 0.48), (0.76, 0.44), (0.78, 0.13)], paint)
    canvas.polygon([(0.3, 0.5), (0.3, 0.72), (0.46, 0.72), (0.54, 0.5)], _GLASS, outlined=False)
    for x in (-0.54, -0.22, 0.48):
        _wheel(canvas, (x, 0.14), 0.14, phase)
    return canvas


def bicycle(color: str, action: str, phase: float, look: int) -> Canvas:
    """A man in grey on a bicycle; frame and rims are painted."""
    canvas = Canvas()
    paint = PAINT[color]
    gray: Color = (98, 100, 106)
    rear, front, crank, seat, bar = (-0.38, 0.22), (0.38, 0.22), (-0.04, 0.2), (-0.14, 0.5), (0.3, 0.56)
    hip, neck = (-0.14, 0.56), (0.06, 0.88)
    for side, tone in ((0.5, shade(gray, 0.75)), (0.0, gray)):
        a = (-phase + side) * math.tau
        foot = (crank[0] + 0.1 * math.cos(a), crank[1] + 0.1 * math.sin(a))
        knee = ((hip[0] + foot[0]) / 2 + 0.16, (hip[1] + foot[1]) / 2 + 0.05)
        canvas.limb([hip, knee, foot], 0.085, tone)
    for center in (rear, front):
        ring = [
            (center[0] + 0.2 * math.cos(a), center[1] + 0.2 * math.sin(a))
            for a in (i * math.tau / 16 for i in range(17))
        ]
        canvas.limb(ring, 0.06, _TYRE)
        canvas.limb(
            [((x - center[0]) * 0.82 + center[0], (y - center[1]) * 0.82 + center[1]) for x, y in ring],
            0.05,
            paint,
            outlined=False,
        )
        for spoke in range(4):
            a = -phase * math.tau / 4 + spoke * math.tau / 4
            canvas.limb(
                [center, (center[0] + 0.16 * math.cos(a), center[1] + 0.16 * math.sin(a))],
                0.012,
                (220, 220, 220),
                outlined=False,
            )
    for line in ([rear, crank, seat, rear], [seat, (0.28, 0.46), crank], [bar, front]):
        canvas.limb(list(line), 0.07, paint)
    canvas.limb([(-0.22, 0.52), (-0.06, 0.52)], 0.05, _TYRE)
    canvas.limb([hip, neck], 0.2, gray)
    canvas.limb([neck, (0.2, 0.68), bar], 0.065, SKINS[look % 4])
    canvas.ellipse((0.12, 1.02), 0.09, 0.1, SKINS[look % 4])
    canvas.ellipse((0.1, 1.07), 0.1, 0.06, HAIRS[look // 4 % 4], outlined=False)
    return canvas


def boat(color: str, action: str, phase: float, look: int) -> Canvas:
    """A painted hull and two pale sails; the origin is on its water line."""
    canvas = Canvas()
    paint = PAINT[color]
    rock = 0.03 * math.sin(phase * math.tau)
    top = (0.02 - rock * 2, 1.06)
    canvas.limb([(0.02, 0.2), top], 0.035, (110, 78, 48))
    canvas.polygon([(top[0] + 0.04, top[1] - 0.04), (0.5, 0.3 + rock), (0.06, 0.3)], (238, 232, 214))
    canvas.polygon([(top[0] - 0.04, top[1] - 0.1), (-0.42, 0.3 - rock), (-0.03, 0.3)], (226, 218, 198))
    canvas.polygon([(-0.62, 0.26 - rock), (0.68, 0.28 + rock), (0.46, -0.02), (-0.46, -0.02)], paint)
    canvas.polygon(
        [(-0.58, 0.2 - rock), (0.63, 0.22 + rock), (0.6, 0.17 + rock), (-0.55, 0.15 - rock)],
        shade(paint, 0.72),
        outlined=False,
    )
    return canvas


def ball(color: str, action: str, phase: float, look: int) -> Canvas:
    """A ball with two seams that show its rotation. A bouncing ball is always in the air."""
    canvas = Canvas()
    paint = PAINT[color]
    lift = {"bounce": 0.5 + 0.55 * math.sin(phase * math.pi), "float": -0.06 + 0.02 * math.sin(phase * math.tau)}.get(
        action, 0.0
    )
    center = (0.0, 0.25 + lift)
    turn = -phase * math.pi if action != "float" else 0.3
    canvas.ellipse(center, 0.25, 0.25, paint)
    for a in (turn, turn + math.pi / 2):
        canvas.ellipse(center, 0.235, 0.03, shade(paint, 0.72), angle=a, outlined=False)
    canvas.ellipse((center[0] - 0.08, center[1] + 0.1), 0.06, 0.045, shade(paint, 1.5), outlined=False)
    return canvas
