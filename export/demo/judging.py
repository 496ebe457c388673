"""What a family hands over so that its demo can be judged: `JUDGING` in `export/demo/<family>/evaluate.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Counts = Mapping[str, int]  # how many clips are right, by property; the last one is what counts most


@dataclass(frozen=True)
class Judging:
    """How a demo is judged, and what it has to reach.

    Attributes:
        load: (checkpoint's folder) -> its pipeline in fp32.
        about: how the clips are made, in words.
        clips: (pipeline, number) -> how many of so many clips of unseen prompts are right.
        parts: (pipeline) -> figures of the parts beside the transformer.
        continued: (pipeline, number) -> the same as `clips` of videos that are continued; None if there is no such thing.
        bars: the least percentage of clips that are right in fp32, by property.
        lost: the most percentage points that a precision may lose, by property.
        least: the least of each of the figures of the parts.
        threads: CPU threads; 0 for all cores.
        export_clips: how many clips the export of a precision compares with the unquantized ones.
    """

    load: Callable[[Path], Any]
    about: str
    clips: Callable[[Any, int], Counts]
    parts: Callable[[Any], Mapping[str, float]]
    continued: Callable[[Any, int], Counts] | None = None
    bars: Mapping[str, float] = field(default_factory=dict)
    lost: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    least: Mapping[str, float] = field(default_factory=dict)
    threads: int = 0
    export_clips: int = 4
