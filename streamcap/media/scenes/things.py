"""Vehicles and balls. Each function draws one figure facing right, standing at the origin."""

from __future__ import annotations

import math

from streamcap.media.scenes.living import HAIRS, SKINS
from streamcap.media.scenes.pen import PAINT, Colour, Pen, Point, shade

_GLASS: Colour = (176, 212, 232)
_TYRE: Colour = (32, 32, 36)


def _wheel(pen: Pen, centre: Point, radius: float, phase: float) -> None:
    pen.ellipse(centre, radius, radius, _TYRE)
    pen.ellipse(centre, radius * 0.6, radius * 0.6, (200, 200, 206), outlined=False)
    for spoke in range(3):
        a = -phase * math.tau / 3 + spoke * math.tau / 3
        tip = (centre[0] + radius * 0.55 * math.cos(a), centre[1] + radius * 0.55 * math.sin(a))
        pen.limb([centre, tip], radius * 0.16, (96, 96, 102), outlined=False)


def car(colour: str, action: str, phase: float, look: int) -> Pen:
    """A low saloon car with two windows."""
    pen = Pen()
    paint = PAINT[colour]
    pen.polygon([(-0.4, 0.3), (-0.26, 0.52), (0.16, 0.52), (0.36, 0.3)], paint)
    pen.polygon([(-0.66, 0.12), (-0.68, 0.28), (-0.6, 0.34), (0.42, 0.34), (0.66, 0.27), (0.68, 0.12)], paint)
    pen.polygon([(-0.33, 0.33), (-0.23, 0.47), (-0.05, 0.47), (-0.05, 0.33)], _GLASS, outlined=False)
    pen.polygon([(0.0, 0.33), (0.0, 0.47), (0.13, 0.47), (0.27, 0.33)], _GLASS, outlined=False)
    pen.ellipse((0.63, 0.24), 0.04, 0.03, (255, 246, 190), outlined=False)
    for x in (-0.4, 0.4):
        _wheel(pen, (x, 0.125), 0.125, phase)
    return pen


def bus(colour: str, action: str, phase: float, look: int) -> Pen:
    """A long high box with a row of windows."""
    pen = Pen()
    paint = PAINT[colour]
    pen.polygon([(-0.85, 0.13), (-0.85, 0.72), (-0.8, 0.78), (0.8, 0.78), (0.86, 0.7), (0.86, 0.13)], paint)
    for i in range(5):
        x = -0.78 + i * 0.29
        pen.polygon([(x, 0.42), (x, 0.66), (x + 0.23, 0.66), (x + 0.23, 0.42)], _GLASS, outlined=False)
    pen.polygon([(0.7, 0.2), (0.7, 0.66), (0.83, 0.66), (0.83, 0.2)], _GLASS, outlined=False)
    pen.polygon([(-0.85, 0.28), (-0.85, 0.32), (0.68, 0.32), (0.68, 0.28)], shade(paint, 0.7), outlined=False)
    for x in (-0.52, 0.5):
        _wheel(pen, (x, 0.13), 0.13, phase)
    return pen


def truck(colour: str, action: str, phase: float, look: int) -> Pen:
    """An open truck: a cab in front, planks behind with logs on them."""
    pen = Pen()
    paint = PAINT[colour]
    for i in range(3):
        pen.ellipse((-0.56 + i * 0.25, 0.5), 0.125, 0.125, (168, 120, 70))
    for i in range(2):
        pen.ellipse((-0.43 + i * 0.25, 0.69), 0.125, 0.125, (190, 142, 88))
    pen.polygon([(-0.78, 0.2), (-0.78, 0.42), (0.18, 0.42), (0.18, 0.2)], shade(paint, 0.85))
    pen.polygon([(0.2, 0.13), (0.2, 0.8), (0.5, 0.8), (0.62, 0.48), (0.76, 0.44), (0.78, 0.13)], paint)
    pen.polygon([(0.3, 0.5), (0.3, 0.72), (0.46, 0.72), (0.54, 0.5)], _GLASS, outlined=False)
    for x in (-0.54, -0.22, 0.48):
        _wheel(pen, (x, 0.14), 0.14, phase)
    return pen


def bicycle(colour: str, action: str, phase: float, look: int) -> Pen:
    """A man in grey on a bicycle; frame and rims are painted."""
    pen = Pen()
    paint = PAINT[colour]
    grey: Colour = (98, 100, 106)
    rear, front, crank, seat, bar = (-0.38, 0.22), (0.38, 0.22), (-0.04, 0.2), (-0.14, 0.5), (0.3, 0.56)
    hip, neck = (-0.14, 0.56), (0.06, 0.88)
    for side, tone in ((0.5, shade(grey, 0.75)), (0.0, grey)):
        a = (-phase + side) * math.tau
        foot = (crank[0] + 0.1 * math.cos(a), crank[1] + 0.1 * math.sin(a))
        knee = ((hip[0] + foot[0]) / 2 + 0.16, (hip[1] + foot[1]) / 2 + 0.05)
        pen.limb([hip, knee, foot], 0.085, tone)
    for centre in (rear, front):
        ring = [
            (centre[0] + 0.2 * math.cos(a), centre[1] + 0.2 * math.sin(a))
            for a in (i * math.tau / 16 for i in range(17))
        ]
        pen.limb(ring, 0.06, _TYRE)
        pen.limb(
            [((x - centre[0]) * 0.82 + centre[0], (y - centre[1]) * 0.82 + centre[1]) for x, y in ring],
            0.05,
            paint,
            outlined=False,
        )
        for spoke in range(4):
            a = -phase * math.tau / 4 + spoke * math.tau / 4
            pen.limb(
                [centre, (centre[0] + 0.16 * math.cos(a), centre[1] + 0.16 * math.sin(a))],
                0.012,
                (220, 220, 220),
                outlined=False,
            )
    for line in ([rear, crank, seat, rear], [seat, (0.28, 0.46), crank], [bar, front]):
        pen.limb(list(line), 0.07, paint)
    pen.limb([(-0.22, 0.52), (-0.06, 0.52)], 0.05, _TYRE)
    pen.limb([hip, neck], 0.2, grey)
    pen.limb([neck, (0.2, 0.68), bar], 0.065, SKINS[look % 4])
    pen.ellipse((0.12, 1.02), 0.09, 0.1, SKINS[look % 4])
    pen.ellipse((0.1, 1.07), 0.1, 0.06, HAIRS[look // 4 % 4], outlined=False)
    return pen


def boat(colour: str, action: str, phase: float, look: int) -> Pen:
    """A painted hull and two pale sails; the origin is on its water line."""
    pen = Pen()
    paint = PAINT[colour]
    rock = 0.03 * math.sin(phase * math.tau)
    top = (0.02 - rock * 2, 1.06)
    pen.limb([(0.02, 0.2), top], 0.035, (110, 78, 48))
    pen.polygon([(top[0] + 0.04, top[1] - 0.04), (0.5, 0.3 + rock), (0.06, 0.3)], (238, 232, 214))
    pen.polygon([(top[0] - 0.04, top[1] - 0.1), (-0.42, 0.3 - rock), (-0.03, 0.3)], (226, 218, 198))
    pen.polygon([(-0.62, 0.26 - rock), (0.68, 0.28 + rock), (0.46, -0.02), (-0.46, -0.02)], paint)
    pen.polygon(
        [(-0.58, 0.2 - rock), (0.63, 0.22 + rock), (0.6, 0.17 + rock), (-0.55, 0.15 - rock)],
        shade(paint, 0.72),
        outlined=False,
    )
    return pen


def ball(colour: str, action: str, phase: float, look: int) -> Pen:
    """A ball with two seams that show it turn; bouncing, it is always in the air."""
    pen = Pen()
    paint = PAINT[colour]
    lift = {"bounce": 0.5 + 0.55 * math.sin(phase * math.pi), "float": -0.06 + 0.02 * math.sin(phase * math.tau)}.get(
        action, 0.0
    )
    centre = (0.0, 0.25 + lift)
    turn = -phase * math.pi if action != "float" else 0.3
    pen.ellipse(centre, 0.25, 0.25, paint)
    for a in (turn, turn + math.pi / 2):
        pen.ellipse(centre, 0.235, 0.03, shade(paint, 0.72), angle=a, outlined=False)
    pen.ellipse((centre[0] - 0.08, centre[1] + 0.1), 0.06, 0.045, shade(paint, 1.5), outlined=False)
    return pen
