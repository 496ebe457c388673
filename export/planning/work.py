"""What one clip asks of the machine: parts that hold weights, each with its operations; and the roofline over them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from export.planning.gb10 import BANDWIDTH, PEAK_FLOPS, Arithmetic
from export.planning.published import Published
from videosdgx.families.spec import FamilySpec, Variant


@dataclass(frozen=True)
class Operation:
    """Work that runs as one: floating-point operations in one arithmetic, and bytes moved to and from memory."""

    name: str
    arithmetic: Arithmetic
    flops: float
    bytes: float

    def seconds(self, efficiency: float) -> float:
        """The roofline: the longer of computing and moving, each at `efficiency` (0 to 1) of its published peak."""
        return max(self.flops / PEAK_FLOPS[self.arithmetic], self.bytes / BANDWIDTH) / efficiency


@dataclass(frozen=True)
class Bytes:
    """A size and where it is from: counted, estimated, or an artifact's manifest."""

    value: float
    source: str


@dataclass(frozen=True)
class Kept:
    """What a part keeps for a clip between its runs: `count` things of `each` bytes."""

    what: str
    each: float
    count: int

    @property
    def bytes(self) -> float:
        """Of all of them."""
        return self.each * self.count


@dataclass(frozen=True)
class Part:
    """A component: its weights, the memory of one run at work, the operations of one run, the runs for a clip.

    `kept` is memory that each clip has in the component from its first run to the end.
    """

    component: str
    precision: str
    weights: Bytes
    activation: Bytes
    operations: tuple[Operation, ...]
    runs: int
    kept: Kept | None = None

    @property
    def working(self) -> float:
        """Bytes that a clip needs in the component while it runs."""
        return self.activation.value + self.kept_bytes

    @property
    def kept_bytes(self) -> float:
        """Bytes of `kept`."""
        return self.kept.bytes if self.kept else 0.0

    @property
    def flops(self) -> float:
        """Floating-point operations of one run."""
        return sum(operation.flops for operation in self.operations)

    def seconds(self, efficiency: float) -> float:
        """Estimated seconds of one run; operations follow one another, so their times add up."""
        return sum(operation.seconds(efficiency) for operation in self.operations)


@dataclass(frozen=True)
class Request:
    """One clip of one variant: size in pixels, length in frames. Without guidance a step is one forward, not two."""

    family: str
    variant: Variant
    precision: str
    width: int
    height: int
    frames: int
    steps: int
    guided: bool = True
    attention: Arithmetic = "fp16"

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return f"{self.family}:{self.variant.name}:{self.precision}"

    @property
    def clip(self) -> str:
        """Size, length and steps in words."""
        return f"{self.width}x{self.height}, {self.frames} frames, {self.steps} steps{'' if self.guided else ' unguided'}"


@dataclass(frozen=True)
class Clip:
    """A request and all its parts.

    `decoders`: the video decoder in PyTorch and as an engine, where there are both; one of them is among the parts.
    """

    request: Request
    parts: tuple[Part, ...]
    decoders: tuple[Part, Part] | None = None

    @property
    def flops(self) -> float:
        """Floating-point operations of the whole clip."""
        return sum(part.runs * part.flops for part in self.parts)

    def seconds(self, efficiency: float) -> float:
        """Estimated seconds of the whole clip, alone on the machine, its parts loaded."""
        return sum(part.runs * part.seconds(efficiency) for part in self.parts)

    @property
    def weights(self) -> float:
        """Bytes of all parts' weights."""
        return sum(part.weights.value for part in self.parts)

    def working(self, concurrency: int) -> float:
        """Bytes that `concurrency` clips need beside the weights: each is in one phase, at worst all in the largest."""
        kept = sum(part.kept_bytes for part in self.parts)
        return concurrency * (kept + max(part.activation.value for part in self.parts))

    def resident(self, concurrency: int) -> float:
        """Bytes with all parts loaded."""
        return self.weights + self.working(concurrency)

    def by_turns(self, concurrency: int) -> float:
        """Bytes if only the part at work is loaded: the largest single part."""
        return max(part.weights.value + concurrency * part.working for part in self.parts)


def together(clips: Iterable[Clip], concurrency: int) -> tuple[float, float]:
    """Bytes with all parts of several clips loaded: if one clip works at a time, and if all work at once."""
    every = list(clips)
    weights = sum(clip.weights for clip in every)
    working = [clip.working(concurrency) for clip in every]
    return weights + max(working), weights + sum(working)


@dataclass(frozen=True)
class Family:
    """What planning needs of a family: its table, the work of one clip, published times to compare with.

    `work` takes a request and the home whose artifacts tell their own sizes; `notes` say what its figures rest on.
    """

    spec: FamilySpec
    work: Callable[[Request, Path], Clip]
    published: tuple[Published, ...]
    notes: tuple[str, ...]
