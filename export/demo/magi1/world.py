"""The synthetic world of the MAGI-1 demo: the shapes, colours and backgrounds of `world`, in long clips.

A clip is made of chunks of 24 frames. The object moves left, right, up or down at a constant speed and bounces at the
border; but not in the first chunk: it begins where there is room, so that "moving right" first moves right. The motion may
change at the start of a chunk ("moving right then up"): then always to the other axis, because an object that already moves
along the asked axis goes on as it does, bounces included. So what happens in a chunk follows from its own caption and the
chunk before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.demo import world
from export.demo.world import BACKGROUNDS, COLOURS, SIZE, Combination, Floats

CHUNK_FRAMES = 24
FPS = 24
MOTIONS = ("left", "right", "up", "down")
HELD_OUT_SEED = 20_27
RADIUS = (9.0, 11.0)  # pixels, of the circle of the same area
SPEED = (1.25, 1.6)  # pixels per frame; less where that is too fast for one chunk without the border
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}  # x, y; y points down
_COLOUR_JITTER = 0.02  # largest shift of each channel of each colour
_MARGIN = 1.0  # pixels kept free at the border


@dataclass(frozen=True)
class Story:
    """What a clip shows: a colour, a shape, a background, and one motion after another ("moving right then up")."""

    colour: str
    shape: str
    background: str
    motions: tuple[str, ...]

    def part(self, motion: str) -> Combination:
        """What a chunk with this motion shows."""
        return Combination(self.colour, self.shape, self.background, motion)

    def per_chunk(self, chunks: int) -> list[str]:
        """The motion of each chunk: the motions share the chunks evenly, as the pipeline splits a prompt."""
        return [self.motions[index * len(self.motions) // chunks] for index in range(chunks)]


def axis(motion: str) -> int:
    """0 for left and right, 1 for up and down."""
    return 0 if motion in ("left", "right") else 1


def combinations() -> list[Combination]:
    """All 300 combinations of one motion in a fixed order."""
    return world.combinations(MOTIONS)


def split() -> tuple[list[Combination], list[Combination]]:
    """Return (training, held out): 240 and 60 combinations, the same on every call."""
    return world.hold_out(combinations(), HELD_OUT_SEED)


# Pictures ------------------------------------------------------------------------------------------------------------


def limits(shape: str, radius: float) -> tuple[Floats, Floats]:
    """Least and greatest centre (x, y), in pixels, that keeps the whole shape in the picture."""
    side, above, below = (reach * radius + _MARGIN for reach in world.REACH[shape])
    return np.array([side, above], dtype=np.float32), np.array([SIZE - side, SIZE - below], dtype=np.float32)


def trajectory(shape: str, motions: Sequence[str], rng: np.random.Generator) -> tuple[Floats, float]:
    """Draw where the object is: centres [24 * chunks, 2] (x, y) and its radius, in pixels, for a motion per chunk.

    A new motion takes effect with the step into its chunk.
    """
    radius = rng.uniform(*RADIUS)
    low, high = limits(shape, radius)
    first = axis(motions[0])
    speed = min(rng.uniform(*SPEED), float(high[first] - low[first]) / (CHUNK_FRAMES - 1))
    way = speed * (CHUNK_FRAMES - 1) * np.array(DIRECTIONS[motions[0]])  # of the first chunk
    place = low - np.minimum(way, 0) + rng.random(2) * (high - low - np.abs(way))
    direction = np.zeros(2)
    centres = []
    for index, motion in enumerate(motions):
        if index == 0 or direction[axis(motion)] == 0:
            direction = np.array(DIRECTIONS[motion])
        for frame in range(CHUNK_FRAMES):
            if index or frame:
                place = place + speed * direction
                for side in (0, 1):
                    if place[side] > high[side]:
                        place[side], direction[side] = 2 * high[side] - place[side], -1.0
                    elif place[side] < low[side]:
                        place[side], direction[side] = 2 * low[side] - place[side], 1.0
            centres.append(place)
    return np.array(centres, dtype=np.float32), float(radius)


def render(
    scene: Combination | Story, motions: Sequence[str], rng: np.random.Generator, first: int = 0, frames: int | None = None
) -> Floats:
    """Draw one clip [24 * chunks, SIZE, SIZE, 3], red green blue in 0..1, of a scene with these motions, one per chunk.

    `first` and `frames` draw only that part of it.
    """
    jitter = rng.uniform(-_COLOUR_JITTER, _COLOUR_JITTER, (2, 3))
    front = np.clip(np.array(COLOURS[scene.colour]) + jitter[0], 0, 1).astype(np.float32)
    back = np.clip(np.array(BACKGROUNDS[scene.background]) + jitter[1], 0, 1).astype(np.float32)
    centres, radius = trajectory(scene.shape, motions, rng)
    centres = centres[first:][:frames]
    alpha = world.coverage(scene.shape, centres, np.full(len(centres), radius, dtype=np.float32))[..., None]
    return alpha * front + (1 - alpha) * back


def draw_motions(first: str, allowed: dict[str, bool], chunks: int, change: float, rng: np.random.Generator) -> list[str]:
    """Motions of `chunks` chunks: from `first`, changed to the other axis at each boundary with the chance `change`.

    `allowed` says which motions may come: those whose combination is not held out.
    """
    motions = [first]
    for _ in range(chunks - 1):
        others = [motion for motion in MOTIONS if axis(motion) != axis(motions[-1]) and allowed[motion]]
        motions.append(str(rng.choice(others)) if others and rng.random() < change else motions[-1])
    return motions


# Words ---------------------------------------------------------------------------------------------------------------


def caption(story: Story) -> str:
    """The plain caption of a story: "a red circle moving right then up on a teal background"."""
    moving = " then ".join(story.motions)
    return f"a {story.colour} {story.shape} moving {moving} on a {story.background} background"


def captions(combination: Combination) -> list[str]:
    """Every caption of one chunk; the first is the plain one."""
    return world.captions(combination)


def vocabulary() -> list[str]:
    """Every word and sign that a caption can hold, sorted."""
    return sorted({*world.vocabulary(), "then"})
