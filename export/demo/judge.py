"""The automatic judge: what does a clip of the synthetic world show?

It uses nothing that was learned. It is right on every rendered clip (a test says so), so that what it misses in a
generated clip is the model's fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from export.demo import world
from export.demo.world import Combination, Floats

_NEAR = 0.25  # how far from its table entry a colour may lie (Euclidean, channels in 0..1)
_CONTRAST = 0.25  # least distance between object and background
_MIN_AREA = 30.0  # pixels; anything smaller is no object
_MIN_OVERLAP = 0.75  # mean intersection over union that a shape must reach
_MIN_WAY = 6.0  # pixels from the first frames to the last; rendered clips have at least 13
_MIN_GROWTH = 0.5  # log of the ratio of areas, last frames to first; rendered clips have at least 0.85


@dataclass(frozen=True)
class Verdict:
    """What a clip shows; None where it shows nothing that has a name."""

    colour: str | None
    shape: str | None
    background: str | None
    motion: str | None


def judge(clip: Floats) -> Verdict:
    """Judge one clip [F, H, W, 3], red green blue in 0..1, H = W."""
    back, front, inside = _cut_out(clip)
    background = _nearest(back, world.BACKGROUNDS)
    if front is None:
        return Verdict(None, None, background, None)
    areas = inside.sum(axis=(1, 2)).astype(np.float32)
    seen = areas >= _MIN_AREA
    colour = _nearest(front, world.COLOURS)
    if seen.sum() < 2:
        return Verdict(colour, None, background, None)
    centres = np.array([_centroid(mask) for mask in inside[seen]], dtype=np.float32)
    return Verdict(colour, _shape(inside[seen], centres, areas[seen]), background, _motion(centres, areas[seen]))


def track(clip: Floats) -> tuple[Floats, Floats] | None:
    """Centres [F', 2] (x, y) and areas [F'] of the object in the frames that show it, in pixels; None if none does."""
    _, front, inside = _cut_out(clip)
    if front is None:
        return None
    areas = inside.sum(axis=(1, 2)).astype(np.float32)
    seen = areas >= _MIN_AREA
    return np.array([_centroid(mask) for mask in inside[seen]], dtype=np.float32), areas[seen]


def _cut_out(clip: Floats) -> tuple[Floats, Floats | None, np.ndarray]:
    """Colour of the background, colour of the object (None if there is none), and where the object is [F, H, W]."""
    frames = np.asarray(clip, dtype=np.float32)
    border = np.concatenate([frames[:, 0], frames[:, -1], frames[:, :, 0], frames[:, :, -1]], axis=1)
    back = np.median(border.reshape(-1, 3), axis=0)
    distance = np.linalg.norm(frames - back, axis=-1)
    inside = distance > max(_CONTRAST, float(distance.max()) / 2)
    if inside.sum() < _MIN_AREA * len(frames):
        return back, None, inside
    front = np.median(frames[inside], axis=0)
    # Halfway between the two colours lies the edge of the object, for any pair of colours.
    return back, front, distance > np.linalg.norm(front - back) / 2


def _nearest(value: Floats, table: dict[str, tuple[float, float, float]]) -> str | None:
    distances = {name: float(np.linalg.norm(value - np.array(entry))) for name, entry in table.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] < _NEAR else None


def _centroid(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5


def _shape(masks: np.ndarray, centres: Floats, areas: Floats) -> str | None:
    """The ideal form of the same centre and area that overlaps best, over all frames [F, H, W]."""
    overlaps = {}
    for shape in world.SHAPES:
        ideal = world.coverage(shape, centres, np.sqrt(areas / np.pi), size=masks.shape[-1]) > 0.5
        overlaps[shape] = float(((masks & ideal).sum(axis=(1, 2)) / (masks | ideal).sum(axis=(1, 2))).mean())
    shape = max(overlaps, key=overlaps.__getitem__)
    return shape if overlaps[shape] >= _MIN_OVERLAP else None


def _motion(centres: Floats, areas: Floats) -> str | None:
    """From the first two seen frames to the last two: the way of the centre, the ratio of the areas."""
    way = centres[-2:].mean(axis=0) - centres[:2].mean(axis=0)
    growth = float(np.log(areas[-2:].mean() / areas[:2].mean()))
    moves = float(np.abs(way).max()) / _MIN_WAY
    changes = abs(growth) / _MIN_GROWTH
    if max(moves, changes) < 1:
        return None
    if changes > moves:
        return "growing" if growth > 0 else "shrinking"
    if abs(way[0]) > abs(way[1]):
        return "right" if way[0] > 0 else "left"
    return "down" if way[1] > 0 else "up"


PROPERTIES = tuple(field.name for field in fields(Verdict))


@dataclass(frozen=True)
class Success:
    """How many of `clips` clips show the right thing: property by property, and all four at once."""

    clips: int
    colour: int
    shape: int
    background: int
    motion: int
    all_four: int

    @property
    def rate(self) -> float:
        """Share of the clips that are right in all four, 0..1."""
        return self.all_four / self.clips


def success(clips: Sequence[Floats] | Floats, wanted: Sequence[Combination]) -> Success:
    """Judge clips [N, F, H, W, 3] in 0..1 against the combinations that their prompts named."""
    if len(clips) != len(wanted):
        raise ValueError(f"{len(clips)} clips for {len(wanted)} combinations")
    verdicts = [asdict(judge(clip)) for clip in clips]
    hits = [
        {name: seen[name] == getattr(want, name) for name in PROPERTIES} for seen, want in zip(verdicts, wanted, strict=True)
    ]
    counts = {name: sum(hit[name] for hit in hits) for name in PROPERTIES}
    return Success(clips=len(hits), all_four=sum(all(hit.values()) for hit in hits), **counts)
