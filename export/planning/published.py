"""What others published, to hold an estimate against."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Seconds (from, to) for one clip of a variant on another machine, and GB of memory at the peak where told."""

    variant: str
    width: int
    height: int
    frames: int
    steps: int
    machine: str
    seconds: tuple[float, float]
    peak_gb: float | None = None
    guided: bool = True
