"""The automatic judge of the MAGI-1 demo's clips: does a clip show its story, chunk after chunk, without a jump?

Colour, shape and background are those of `judge`. The motion of each chunk is compared with what the rule of the world
predicts. It is right on rendered clips (a test says so), so that what it misses in a generated clip is the model's fault.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from export.demo import judge as stills
from export.demo.magi1 import world
from export.demo.magi1.world import CHUNK_FRAMES, DIRECTIONS, Story
from export.demo.world import Floats

_TOLERANCE = 3.0  # pixels that a centre may lie beside the predicted way
_AT_BORDER = 3.0  # pixels; so near to the turning point it cannot be told whether the object has bounced yet
_SPEEDS = np.linspace(0.8, 2.0, 25)  # pixels per frame; rendered clips have 1.25 to 1.6
_EARLIER = (-2.0, -1.0, 0.0, 1.0, 2.0)  # pixels by which an object may turn before (or beyond) the border
_LARGEST_JUMP = 2.0  # usual steps


@dataclass(frozen=True)
class Verdict:
    """Whether a clip shows what its story says; `motion` over all chunks, `smooth` between them."""

    colour: bool
    shape: bool
    background: bool
    motion: bool
    smooth: bool


def judge(clip: Floats, story: Story, motions: Sequence[str] | None = None) -> Verdict:
    """Judge one clip [F, H, W, 3], red green blue in 0..1, F a multiple of 24.

    `motions` are those of the chunks where the story does not share them evenly.
    """
    seen = stills.judge(clip)
    where = stills.track(clip)
    motions = motions or story.per_chunk(len(clip) // CHUNK_FRAMES)
    found = where is not None and len(where[0]) == len(clip)
    return Verdict(
        colour=seen.colour == story.colour,
        shape=seen.shape == story.shape,
        background=seen.background == story.background,
        motion=bool(found and where is not None and _follows(*where, story.shape, motions)),
        smooth=bool(found and where is not None and jump(where[0]) <= _LARGEST_JUMP),
    )


def jump(centres: Floats) -> float:
    """The largest step of the centre [F, 2] between two chunks, in usual steps (the median of all)."""
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    between = steps[CHUNK_FRAMES - 1 :: CHUNK_FRAMES]
    return float(between.max() / max(float(np.median(steps)), 1e-6)) if len(between) else 0.0


def fold(value: Floats, low: float, high: float) -> Floats:
    """Where a point is that bounces at `low` and `high`, if without them it were at `value`."""
    span = high - low
    return high - np.abs((value - low) % (2 * span) - span)


def _follows(centres: Floats, areas: Floats, shape: str, motions: Sequence[str]) -> bool:
    """Whether the centres [F, 2] go as the rule of the world says: in each chunk along its axis, in the direction of the
    caption if the axis is new, else as before, turning at the border only."""
    low, high = world.limits(shape, float(np.sqrt(np.median(areas) / np.pi)))
    possible: set[float] = set()
    before = None
    for index, motion in enumerate(motions):
        axis = world.axis(motion)
        if before is None or world.axis(before) != axis:
            possible = {DIRECTIONS[motion][axis]}
        part = centres[index * CHUNK_FRAMES : (index + 1) * CHUNK_FRAMES]
        across = part[:, 1 - axis]
        if np.abs(across - np.median(across)).max() > _TOLERANCE:
            return False
        ends = set(_ends(part[:, axis], possible, float(low[axis]), float(high[axis])))
        if not ends:
            return False
        possible, before = ends, motion
    return True


def _ends(way: Floats, possible: set[float], low: float, high: float) -> Iterator[float]:
    """The directions in which an object can be going at the end of a chunk, that goes `way` [24] from one of `possible`."""
    frames = np.arange(len(way))
    fits = []
    for direction, earlier, late in itertools.product(possible, _EARLIER, (-1.0, 0.0, 1.0)):
        path = way[0] + late + direction * _SPEEDS[:, None] * frames
        errors = np.abs(fold(path, low + earlier, high - earlier) - way).max(axis=1)
        best = int(errors.argmin())
        fits.append((float(errors[best]), path[best, -1], direction, earlier))
    error, end, direction, earlier = min(fits)
    if error > _TOLERANCE:
        return
    turns = np.floor((end - low - earlier) / (high - low - 2 * earlier))
    yield direction * (1.0 if turns % 2 == 0 else -1.0)
    if min(way[-1] - low, high - way[-1]) < _AT_BORDER:
        yield from (-1.0, 1.0)


PROPERTIES = tuple(field.name for field in fields(Verdict))


@dataclass(frozen=True)
class Success:
    """How many of `clips` clips are right, property by property; `looks`: in colour, shape and background at once."""

    clips: int
    colour: int
    shape: int
    background: int
    motion: int
    smooth: int
    looks: int
    everything: int


def success(verdicts: Sequence[Verdict]) -> Success:
    """Count verdicts."""
    rows = [asdict(verdict) for verdict in verdicts]
    return Success(
        clips=len(rows),
        **{name: sum(row[name] for row in rows) for name in PROPERTIES},
        looks=sum(row["colour"] and row["shape"] and row["background"] for row in rows),
        everything=sum(all(row.values()) for row in rows),
    )
