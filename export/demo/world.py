"""The synthetic captioned world of the demo checkpoints.

One circle, square or triangle in one of five colours, on one of five plain backgrounds, in one of six motions: 450
combinations, a fifth of which no training ever sees. The words for colours, shapes, backgrounds and motions are
disjoint, so that a caption in any order names exactly one combination.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

FRAMES = 9
SIZE = 64  # pixels, both height and width
HELD_OUT_SHARE = 0.2
HELD_OUT_SEED = 20_26

# Red, green, blue of each colour in 0..1, as far apart as the names allow.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.88, 0.14, 0.14),
    "green": (0.20, 0.76, 0.22),
    "blue": (0.18, 0.30, 0.94),
    "yellow": (0.95, 0.87, 0.16),
    "white": (0.97, 0.97, 0.97),
}
BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "black": (0.04, 0.04, 0.04),
    "gray": (0.50, 0.50, 0.50),
    "purple": (0.44, 0.14, 0.56),
    "brown": (0.46, 0.28, 0.12),
    "teal": (0.02, 0.47, 0.49),
}
SHAPES = ("circle", "square", "triangle")
MOTIONS = ("left", "right", "up", "down", "growing", "shrinking")
_DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}  # x, y; y points down

# Every shape of radius r covers the area of a circle of radius r, so that area says nothing of shape.
_SQUARE_HALF = math.sqrt(math.pi) / 2  # half the side, in radii
_TRIANGLE_SIDE = math.sqrt(4 * math.pi / math.sqrt(3))  # side of the equilateral triangle, in radii
_TRIANGLE_INNER = _TRIANGLE_SIDE / (2 * math.sqrt(3))  # centroid to edge, in radii
# How far each shape reaches from its centroid: sideways, up, down, in radii.
REACH = {
    "circle": (1.0, 1.0, 1.0),
    "square": (_SQUARE_HALF, _SQUARE_HALF, _SQUARE_HALF),
    "triangle": (_TRIANGLE_SIDE / 2, 2 * _TRIANGLE_INNER, _TRIANGLE_INNER),
}
_MOVING_RADIUS = (10.5, 13.0)  # pixels
_SMALL_RADIUS = (7.0, 8.5)
_LARGE_RADIUS = (14.0, 16.0)
_SPEED = (1.9, 2.7)  # pixels per frame
_COLOUR_JITTER = 0.02  # largest shift of each channel of each colour
_MARGIN = 1.0  # pixels kept free at the border


@dataclass(frozen=True)
class Combination:
    """What one clip shows: a colour, a shape, a background and a motion of the tables above."""

    colour: str
    shape: str
    background: str
    motion: str


def combinations(motions: Sequence[str] = MOTIONS) -> list[Combination]:
    """All combinations with these motions in a fixed order; 450 with those of this world."""
    return [Combination(*parts) for parts in itertools.product(COLOURS, SHAPES, BACKGROUNDS, motions)]


def hold_out(everything: Sequence[Combination], seed: int) -> tuple[list[Combination], list[Combination]]:
    """Return (training, held out), a fifth of them, in their order; the same on every call with this seed."""
    order = np.random.default_rng(seed).permutation(len(everything))
    held = set(order[: round(HELD_OUT_SHARE * len(everything))].tolist())
    training = [item for index, item in enumerate(everything) if index not in held]
    return training, [everything[index] for index in sorted(held)]


def split() -> tuple[list[Combination], list[Combination]]:
    """Return (training, held out): 360 and 90 combinations, the same on every call."""
    return hold_out(combinations(), HELD_OUT_SEED)


# Pictures ------------------------------------------------------------------------------------------------------------


def coverage(shape: str, centres: Floats, radii: Floats, size: int = SIZE) -> Floats:
    """How much of each pixel a shape covers, anti-aliased: 0..1, [F, size, size].

    `centres` [F, 2] are the centroids (x, y) in pixels, `radii` [F] those of the circle of the same area. The edge
    is one pixel wide, from the signed distance to the outline.
    """
    axis = np.arange(size, dtype=np.float32) + 0.5
    x = axis[None, None, :] - centres[:, 0, None, None]
    y = axis[None, :, None] - centres[:, 1, None, None]
    radius = radii[:, None, None]
    if shape == "circle":
        distance = np.hypot(x, y) - radius
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - _SQUARE_HALF * radius
    elif shape == "triangle":
        slanted = math.sqrt(0.75) * np.abs(x) - 0.5 * y
        distance = np.maximum(slanted, y) - _TRIANGLE_INNER * radius
    else:
        raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")
    return np.clip(0.5 - distance, 0.0, 1.0).astype(np.float32)


def trajectory(shape: str, motion: str, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw where the object is and how large: centres [FRAMES, 2] (x, y) and radii [FRAMES], in pixels.

    The whole shape stays inside the picture in every frame.
    """
    if motion in _DIRECTIONS:
        radii = np.full(FRAMES, rng.uniform(*_MOVING_RADIUS))
        way = rng.uniform(*_SPEED) * np.linspace(-(FRAMES - 1) / 2, (FRAMES - 1) / 2, FRAMES)
    else:
        radii = np.linspace(rng.uniform(*_SMALL_RADIUS), rng.uniform(*_LARGE_RADIUS), FRAMES)
        radii = radii if motion == "growing" else radii[::-1]
        way = np.zeros(FRAMES)
    offsets = way[:, None] * np.array(_DIRECTIONS.get(motion, (0.0, 0.0)))
    side, above, below = (reach * radii.max() + _MARGIN for reach in REACH[shape])
    low = np.array([side, above]) - offsets.min(axis=0)
    high = SIZE - np.array([side, below]) - offsets.max(axis=0)
    return (rng.uniform(low, high) + offsets).astype(np.float32), radii.astype(np.float32)


def render(combination: Combination, rng: np.random.Generator) -> Floats:
    """Draw one clip [FRAMES, SIZE, SIZE, 3], red green blue in 0..1: what diffusers returns as `output_type="np"`."""
    jitter = rng.uniform(-_COLOUR_JITTER, _COLOUR_JITTER, (2, 3))
    front = np.clip(np.array(COLOURS[combination.colour]) + jitter[0], 0, 1)
    back = np.clip(np.array(BACKGROUNDS[combination.background]) + jitter[1], 0, 1)
    centres, radii = trajectory(combination.shape, combination.motion, rng)
    alpha = coverage(combination.shape, centres, radii)[..., None]
    return (alpha * front + (1 - alpha) * back).astype(np.float32)


# Words ---------------------------------------------------------------------------------------------------------------

# What follows "a red circle ..."; {way} as in _WAYS for the directions.
_WAYS = {
    "left": ("left", "to the left", "leftwards"),
    "right": ("right", "to the right", "rightwards"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
}
_GOING = ("moving", "sliding", "drifting")
_CHANGING = {
    "growing": ("growing", "expanding", "getting bigger"),
    "shrinking": ("shrinking", "contracting", "getting smaller"),
}
_TEMPLATES = (
    "a {colour} {shape} {doing} on a {background} background",
    "{colour} {shape} {doing} on {background}",
    "the {colour} {shape} is {doing} in front of a plain {background} background.",
    "on a {background} background, a {colour} {shape} is {doing}",
    "a video of a {colour} {shape} {doing} over a {background} backdrop.",
    "{background} background with a {shape} in {colour}, {doing}",
)
_MEANING: dict[str, tuple[str, str]] = {
    **{word: ("colour", word) for word in COLOURS},
    **{word: ("background", word) for word in BACKGROUNDS},
    **{word: ("shape", word) for word in SHAPES},
    **{way.split()[-1]: ("motion", motion) for motion, ways in _WAYS.items() for way in ways},
    **{doing.split()[-1]: ("motion", motion) for motion, all_doing in _CHANGING.items() for doing in all_doing},
}


def _doings(motion: str) -> list[str]:
    if motion in _CHANGING:
        return list(_CHANGING[motion])
    return [f"{going} {way}" for going in _GOING for way in _WAYS[motion]]


def captions(combination: Combination) -> list[str]:
    """Every caption of a combination; the first is the plain one ("a red circle moving right on a teal background")."""
    parts = {"colour": combination.colour, "shape": combination.shape, "background": combination.background}
    return [t.format(doing=doing, **parts) for t in _TEMPLATES for doing in _doings(combination.motion)]


def caption(combination: Combination) -> str:
    """The plain caption of a combination."""
    return captions(combination)[0]


def parse(text: str) -> Combination:
    """The combination that a caption names; the order of its words does not matter."""
    found: dict[str, str] = {}
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in _MEANING:
            kind, value = _MEANING[word]
            if found.setdefault(kind, value) != value:
                raise ValueError(f"caption names two {kind}s, {found[kind]} and {value}: {text!r}")
    missing = {"colour", "shape", "background", "motion"} - found.keys()
    if missing:
        raise ValueError(f"caption names no {' and no '.join(sorted(missing))}: {text!r}")
    return Combination(**found)


def vocabulary() -> list[str]:
    """Every word and sign that a caption can hold, sorted."""
    return sorted({word for item in combinations() for text in captions(item) for word in re.findall(r"\w+|[,.]", text)})
