"""People and animals. Each function draws one figure facing right, standing at the origin; units are image heights
of a nearby grown-up's three fifths, so a person is about 1 unit tall.

`phase` runs from 0 to 1 over one step, wing beat or jump. The pose at every phase shows the action.
"""

from __future__ import annotations

import math

from streamcap.media.scenes.canvas import PAINT, Canvas, Color, FigurePoint, shade

SKINS: tuple[Color, ...] = ((246, 206, 172), (214, 160, 116), (150, 98, 62), (96, 62, 42))
HAIRS: tuple[Color, ...] = ((44, 30, 22), (96, 60, 30), (206, 166, 88), (120, 116, 112))
_TROUSERS: Color = (104, 98, 92)
_DUST: Color = (206, 196, 176)


def _bend(start: FigurePoint, upper: float, lower: float, a: float, b: float) -> list[FigurePoint]:
    """A two-part limb that starts at `start`. Angles are from straight down; forward (right) is positive."""
    joint = (start[0] + upper * math.sin(a), start[1] - upper * math.cos(a))
    return [start, joint, (joint[0] + lower * math.sin(b), joint[1] - lower * math.cos(b))]


def _dust(canvas: Canvas, x: float, phase: float, size: float) -> None:
    for i in range(3):
        p = (phase + i / 3) % 1
        canvas.ellipse(
            (x - (0.1 + 0.5 * p) * size, 0.07 * size + 0.1 * p * size),
            0.07 * size * (1.2 - p) + 0.015,
            0.05 * size,
            _DUST,
            outlined=False,
        )


def person(color: str, action: str, phase: float, look: int, *, dress: bool) -> Canvas:
    """A man in a shirt and trousers, or a woman in a dress with long hair."""
    canvas = Canvas()
    skin, hair, cloth = SKINS[look % 4], HAIRS[look // 4 % 4], PAINT[color]
    swing = math.sin(phase * math.tau)
    lift, lean = 0.0, 0.0
    if action == "run":
        lean, lift = 0.16, 0.03 + 0.03 * abs(swing)
        legs = [
            (0.85 * swing + 0.25, 0.85 * swing - 0.75 + 0.5 * swing),
            (-0.85 * swing + 0.25, -0.85 * swing - 0.75 - 0.5 * swing),
        ]
        arms = [(-0.9 * swing, -0.9 * swing + 1.5), (0.9 * swing, 0.9 * swing + 1.5)]
    elif action == "jump":
        lift = 0.22 + 0.16 * math.sin(phase * math.pi)
        legs = [(0.75, -0.35), (-0.55, -1.15)]
        arms = [(2.55 + 0.1 * swing, 2.75), (-2.55 - 0.1 * swing, -2.75)]
    else:
        legs = [(0.1, 0.06), (-0.1, -0.06)]
        arms = [(0.2 + 0.03 * swing, 0.14), (-0.2 - 0.03 * swing, -0.14)]
    hip = (0.0, 0.48 + lift)
    neck = (hip[0] + 0.33 * math.sin(lean), hip[1] + 0.33 * math.cos(lean))
    head = (neck[0] + 0.03 * (action == "run"), neck[1] + 0.13)
    if action == "run":
        _dust(canvas, -0.1, phase, 0.7)
    shin = skin if dress else _TROUSERS
    far, near = shade(shin, 0.8), shin
    for (a, b), tone in zip(legs, (far, near), strict=True):
        limb = _bend(hip, 0.24, 0.23, a, b)
        canvas.limb(limb, 0.095 if not dress else 0.075, tone)
        canvas.ellipse((limb[-1][0] + 0.03, limb[-1][1]), 0.065, 0.032, (60, 44, 40))
    if dress:
        canvas.polygon(
            [
                (head[0] - 0.11, head[1] + 0.02),
                (head[0] + 0.06, head[1] + 0.04),
                (neck[0] + 0.02, neck[1] - 0.12),
                (neck[0] - 0.17, neck[1] - 0.16),
            ],
            hair,
        )
    arm_far = _bend(neck, 0.19, 0.17, *arms[1])
    canvas.limb(arm_far[:2], 0.075, shade(cloth, 0.75))
    canvas.limb(arm_far[1:], 0.06, shade(skin, 0.9))
    if dress:
        canvas.polygon(
            [
                (neck[0] - 0.1, neck[1] + 0.02),
                (neck[0] + 0.1, neck[1] + 0.02),
                (hip[0] + 0.11, hip[1] + 0.05),
                (hip[0] + 0.24, hip[1] - 0.2),
                (hip[0] - 0.24, hip[1] - 0.2),
                (hip[0] - 0.11, hip[1] + 0.05),
            ],
            cloth,
        )
    else:
        canvas.polygon(
            [
                (neck[0] - 0.13, neck[1] + 0.03),
                (neck[0] + 0.13, neck[1] + 0.03),
                (hip[0] + 0.12, hip[1] - 0.04),
                (hip[0] - 0.12, hip[1] - 0.04),
            ],
            cloth,
        )
    arm = _bend(neck, 0.19, 0.17, *arms[0])
    canvas.limb(arm[1:], 0.06, skin)
    canvas.limb(arm[:2], 0.085, shade(cloth, 0.9))
    canvas.ellipse(head, 0.09, 0.105, skin)
    canvas.ellipse((head[0] - 0.02, head[1] + 0.06), 0.095, 0.06, hair, outlined=False)
    if dress:
        canvas.ellipse((head[0] - 0.075, head[1] - 0.03), 0.04, 0.12, hair, outlined=False)
    canvas.ellipse((head[0] + 0.05, head[1] + 0.005), 0.012, 0.016, (20, 20, 24), outlined=False)
    return canvas


def _legs(
    canvas: Canvas,
    roots: tuple[float, float],
    y: float,
    length: float,
    width: float,
    coat: Color,
    angles: list[tuple[float, float]],
) -> None:
    """Four legs: hind far, front far, hind near, front near."""
    for i, (a, b) in enumerate(angles):
        root = (roots[i % 2], y)
        tone = shade(coat, 0.72) if i < 2 else shade(coat, 0.9)
        canvas.limb(_bend(root, length * 0.52, length * 0.52, a, b), width, tone)


def _gait(action: str, phase: float) -> list[tuple[float, float]]:
    swing = math.sin(phase * math.tau)
    if action == "run":
        wide = 0.75 + 0.25 * swing
        return [(-wide, -wide - 0.35), (wide, wide - 0.5), (-wide + 0.25, -wide - 0.2), (wide - 0.25, wide - 0.75)]
    if action == "jump":
        return [(-1.05, -1.25), (1.2, 0.9), (-0.85, -1.1), (1.0, 0.7)]
    return [(-0.06, 0.02), (0.06, 0.0), (0.08, -0.04), (-0.06, 0.02)]


def dog(color: str, action: str, phase: float, look: int) -> Canvas:
    """A dog with hanging ears, a long muzzle and a short raised tail."""
    canvas = Canvas()
    coat = PAINT[color]
    dark = shade(coat, 0.7) if color != "black" else (70, 66, 64)
    swing = math.sin(phase * math.tau)
    if action == "sit":
        canvas.limb([(-0.24, 0.08), (-0.4, 0.1 + 0.03 * swing), (-0.47, 0.22 + 0.05 * swing)], 0.075, coat)
        canvas.ellipse((-0.04, 0.28), 0.17, 0.28, coat, angle=-0.4)
        canvas.limb([(0.08, 0.36), (0.11, 0.04)], 0.1, shade(coat, 0.8))
        canvas.limb([(0.14, 0.36), (0.18, 0.04)], 0.1, coat)
        canvas.ellipse((-0.13, 0.13), 0.17, 0.13, shade(coat, 0.9))
        head = (0.14, 0.64)
    else:
        lift = {"run": 0.04 + 0.04 * abs(swing), "jump": 0.3 + 0.14 * math.sin(phase * math.pi)}.get(action, 0.0)
        tilt = 0.22 if action == "jump" else 0.05 * swing
        if action == "run":
            _dust(canvas, -0.35, phase, 0.6)
        y = 0.34 + lift
        _legs(canvas, (-0.25, 0.25), y - 0.02, 0.34, 0.09, coat, _gait(action, phase))
        canvas.limb([(-0.33, y + 0.06 - tilt * 0.3), (-0.5, y + 0.22)], 0.075, coat)
        canvas.ellipse((0.0, y + 0.03), 0.37, 0.145, coat, angle=tilt)
        canvas.limb([(0.27, y + 0.1 + tilt * 0.25), (0.4, y + 0.24 + tilt * 0.3)], 0.17, coat)
        head = (0.42, y + 0.29 + tilt * 0.3)
    x, y = head
    canvas.ellipse((x + 0.14, y - 0.045), 0.14, 0.065, coat)
    canvas.ellipse((x, y), 0.135, 0.12, coat)
    canvas.ellipse((x + 0.265, y - 0.02), 0.035, 0.03, (20, 18, 18), outlined=False)
    canvas.ellipse(
        (x + 0.05, y + 0.035), 0.02, 0.02, (250, 250, 250) if color == "black" else (20, 18, 18), outlined=False
    )
    canvas.ellipse((x - 0.07, y - 0.03), 0.055, 0.13, dark, angle=-0.2)
    return canvas


def cat(color: str, action: str, phase: float, look: int) -> Canvas:
    """A cat with a round face, pointed ears, stripes and a long thin tail."""
    canvas = Canvas()
    coat = PAINT[color]
    stripe = shade(coat, 0.68) if color != "black" else (72, 72, 80)
    swing = math.sin(phase * math.tau)
    if action == "sit":
        canvas.limb([(-0.12, 0.06), (-0.34, 0.06), (-0.42, 0.22), (-0.36, 0.42 + 0.03 * swing)], 0.06, coat)
        canvas.ellipse((0.0, 0.25), 0.19, 0.27, coat)
        for dy in (0.16, 0.26, 0.36):
            canvas.ellipse((-0.12, dy), 0.06, 0.018, stripe, outlined=False)
        canvas.limb([(0.03, 0.2), (0.04, 0.04)], 0.08, shade(coat, 0.85))
        canvas.limb([(0.12, 0.2), (0.13, 0.04)], 0.08, coat)
        head = (0.06, 0.6)
    else:
        lift = {"run": 0.04 + 0.04 * abs(swing), "jump": 0.3 + 0.14 * math.sin(phase * math.pi)}.get(action, 0.0)
        tilt = 0.22 if action == "jump" else 0.05 * swing
        if action == "run":
            _dust(canvas, -0.35, phase, 0.6)
        y = 0.28 + lift
        _legs(canvas, (-0.24, 0.22), y - 0.01, 0.29, 0.075, coat, _gait(action, phase))
        canvas.limb(
            [(-0.3, y + 0.04), (-0.48, y + 0.1), (-0.58, y + 0.26), (-0.52, y + 0.42 + 0.03 * swing)], 0.06, coat
        )
        canvas.ellipse((-0.02, y + 0.03), 0.34, 0.135, coat, angle=tilt)
        for dx in (-0.2, -0.06, 0.08):
            canvas.ellipse((dx, y + 0.07 + tilt * dx), 0.02, 0.075, stripe, outlined=False)
        head = (0.34, y + 0.2 + tilt * 0.3)
    x, y = head
    for side in (-1, 1):
        canvas.polygon([(x + side * 0.16, y + 0.04), (x + side * 0.13, y + 0.25), (x + side * 0.02, y + 0.12)], coat)
    canvas.ellipse((x, y), 0.17, 0.145, coat)
    for side in (-1, 1):
        canvas.ellipse((x + side * 0.065, y + 0.025), 0.032, 0.036, (180, 226, 80), outlined=False)
        canvas.ellipse((x + side * 0.065, y + 0.025), 0.012, 0.032, (16, 16, 16), outlined=False)
        canvas.limb([(x + side * 0.06, y - 0.05), (x + side * 0.22, y - 0.04)], 0.012, (250, 250, 250), outlined=False)
    canvas.ellipse((x, y - 0.035), 0.025, 0.018, (236, 130, 140), outlined=False)
    return canvas


def horse(color: str, action: str, phase: float, look: int) -> Canvas:
    """A horse: long legs, an arched neck, a mane and a long tail."""
    canvas = Canvas()
    coat = PAINT[color]
    mane = {"white": (176, 170, 164), "black": (84, 80, 84)}.get(color, (44, 28, 18))
    swing = math.sin(phase * math.tau)
    if action == "run":
        _dust(canvas, -0.45, phase, 0.7)
    y = 0.56 + (0.04 + 0.03 * abs(swing) if action == "run" else 0.0)
    _legs(canvas, (-0.32, 0.3), y - 0.04, 0.52, 0.085, coat, _gait(action, phase))
    flow = 0.24 if action == "run" else 0.05
    canvas.limb([(-0.42, y + 0.08), (-0.52, y + 0.04), (-0.54 - flow, y - 0.24 + flow)], 0.09, mane)
    canvas.ellipse((0.0, y + 0.03), 0.46, 0.17, coat, angle=0.04 * swing)
    canvas.polygon([(0.2, y + 0.12), (0.46, y + 0.44), (0.6, y + 0.36), (0.44, y - 0.04)], coat)
    canvas.limb([(0.2, y + 0.18), (0.33, y + 0.33), (0.45, y + 0.46)], 0.08, mane)
    canvas.polygon([(0.45, y + 0.5), (0.57, y + 0.5), (0.79, y + 0.27), (0.74, y + 0.2), (0.52, y + 0.29)], coat)
    canvas.polygon([(0.45, y + 0.48), (0.47, y + 0.58), (0.53, y + 0.49)], coat)
    canvas.ellipse(
        (0.57, y + 0.42), 0.016, 0.016, (250, 250, 250) if color == "black" else (20, 18, 18), outlined=False
    )
    return canvas


def bird(color: str, action: str, phase: float, look: int) -> Canvas:
    """A flying bird with beating wings; the origin is its middle."""
    canvas = Canvas()
    coat = PAINT[color]
    beat = math.sin(phase * math.tau)
    wing = 0.12 + 0.26 * beat
    canvas.polygon([(-0.22, 0.02), (-0.5, 0.12), (-0.46, -0.06)], shade(coat, 0.75))
    canvas.polygon([(-0.1, 0.05), (-0.28, wing + 0.16), (-0.02, wing + 0.26), (0.14, 0.05)], shade(coat, 0.72))
    canvas.ellipse((0.0, 0.0), 0.28, 0.13, coat)
    canvas.polygon([(0.36, 0.13), (0.52, 0.07), (0.36, 0.03)], (250, 160, 30))
    canvas.ellipse((0.27, 0.09), 0.12, 0.11, coat)
    canvas.ellipse((0.31, 0.12), 0.02, 0.022, (16, 16, 16), outlined=False)
    canvas.polygon([(-0.14, 0.0), (-0.34, wing + 0.02), (-0.06, wing + 0.12), (0.12, 0.02)], shade(coat, 0.88))
    return canvas


def duck(color: str, action: str, phase: float, look: int) -> Canvas:
    """A swimming duck; the origin is on its water line."""
    canvas = Canvas()
    coat = PAINT[color]
    bob = 0.02 * math.sin(phase * math.tau)
    canvas.polygon([(-0.28, 0.1 + bob), (-0.48, 0.28 + bob), (-0.2, 0.22 + bob)], coat)
    canvas.ellipse((0.0, 0.1 + bob), 0.36, 0.16, coat)
    canvas.limb([(0.22, 0.16 + bob), (0.27, 0.38 + bob)], 0.13, coat)
    canvas.polygon([(0.36, 0.46 + bob), (0.56, 0.4 + bob), (0.36, 0.36 + bob)], (246, 130, 20))
    canvas.ellipse((0.29, 0.43 + bob), 0.13, 0.12, coat)
    canvas.ellipse((0.34, 0.47 + bob), 0.02, 0.02, (16, 16, 16), outlined=False)
    canvas.ellipse((-0.05, 0.14 + bob), 0.2, 0.08, shade(coat, 0.85), angle=0.15, outlined=False)
    return canvas
