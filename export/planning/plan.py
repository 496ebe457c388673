"""A plan: the work of some clips, held against the memory and the peaks of one Spark."""

from dataclasses import dataclass
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

from export.planning.gb10 import PEAK_FLOPS
from export.planning.published import Published
from export.planning.work import Clip, Family, Part, Request, together
from videosdgx import families

MOST_TO_COMBINE = 6  # more would make pages of pairs


# What planning needs of each family: `export/planning/<family>/clip.py` has it.
FAMILIES: dict[str, Family] = {name: import_module(f"export.planning.{name}.clip").FAMILY for name in families.FAMILIES}


@dataclass(frozen=True)
class Machine:
    """What is planned for: bytes of memory, of which a reserve is kept, and the fraction of each peak that is reached."""

    memory: float
    reserve: float
    efficiency: float
    concurrency: int = 1

    @property
    def budget(self) -> float:
        """Bytes for models."""
        return self.memory - self.reserve

    def verdict(self, clip: Clip) -> str:
        """`loaded` if all parts fit at once, `by turns` if each fits while the others are unloaded, else `no`."""
        if clip.resident(self.concurrency) <= self.budget:
            return "loaded"
        return "by turns" if clip.by_turns(self.concurrency) <= self.budget else "no"

    def combined_verdict(self, clips: tuple[Clip, ...]) -> str:
        """`all at work`, or `one at work` if only the memory of one is left beside all weights, or `no`."""
        one, every = together(clips, self.concurrency)
        return "all at work" if every <= self.budget else "one at work" if one <= self.budget else "no"


def combinations_of(clips: list[Clip]) -> list[tuple[Clip, ...]]:
    """All pairs, and all together; none if there are too many."""
    if not 2 <= len(clips) <= MOST_TO_COMBINE:
        return []
    return [*combinations(clips, 2), *([tuple(clips)] if len(clips) > 2 else [])]


@dataclass(frozen=True)
class Comparison:
    """A published time; the rate that it means by our count; what we estimate for the same clip, by precision."""

    published: Published
    flops: float
    estimates: dict[str, float]

    @property
    def rate(self) -> tuple[float, float]:
        """Floating-point operations per second that the published seconds mean (least, most)."""
        fast, slow = self.published.seconds
        return self.flops / slow, self.flops / fast


def comparisons(requests: list[Request], machine: Machine, precisions: tuple[str, ...], home: Path) -> list[Comparison]:
    """The published times of the variants asked for, each beside an estimate for the same clip on the Spark."""
    found = []
    for name in dict.fromkeys((request.family, request.variant.name) for request in requests):
        family = FAMILIES[name[0]]
        for figure in (figure for figure in family.published if figure.variant == name[1]):
            variant = family.spec.variant(figure.variant)
            clips = {
                precision: family.work(
                    Request(
                        family=name[0],
                        variant=variant,
                        precision=precision,
                        width=figure.width,
                        height=figure.height,
                        frames=figure.frames,
                        steps=figure.steps,
                        guided=figure.guided,
                    ),
                    home,
                )
                for precision in precisions
            }
            estimates = {precision: clip.seconds(machine.efficiency) for precision, clip in clips.items()}
            found.append(Comparison(figure, next(iter(clips.values())).flops, estimates))
    return found


def as_json(clips: list[Clip], machine: Machine, compared: list[Comparison], left_out: list[str]) -> dict[str, Any]:
    """Everything of a plan as plain values: bytes, seconds, floating-point operations."""
    n, efficiency = machine.concurrency, machine.efficiency
    return {
        "measured_on_a_spark": False,
        "machine": {
            "memory_bytes": machine.memory,
            "reserve_bytes": machine.reserve,
            "efficiency": efficiency,
            "concurrency": n,
            "peak_flops": dict(PEAK_FLOPS),
        },
        "clips": [_clip_json(clip, machine) for clip in clips],
        "together": [
            {
                "models": [clip.request.name for clip in group],
                "bytes_one_at_work": together(group, n)[0],
                "bytes_all_at_work": together(group, n)[1],
                "fits": machine.combined_verdict(group),
            }
            for group in combinations_of(clips)
        ],
        "published": [
            vars(one.published) | {"flops": one.flops, "flops_per_second": one.rate, "spark_estimate_seconds": one.estimates}
            for one in compared
        ],
        "left_out": left_out,
    }


def _clip_json(clip: Clip, machine: Machine) -> dict[str, Any]:
    n, request = machine.concurrency, clip.request
    return {
        "model": request.name,
        **{name: getattr(request, name) for name in ("width", "height", "frames", "steps", "guided", "attention")},
        "bytes_loaded": clip.resident(n),
        "bytes_by_turns": clip.by_turns(n),
        "fits": machine.verdict(clip),
        "flops": clip.flops,
        "seconds": clip.seconds(machine.efficiency),
        "parts": [_part_json(part, machine) for part in clip.parts],
        "decoders": [_part_json(part, machine) for part in clip.decoders] if clip.decoders else None,
    }


def _part_json(part: Part, machine: Machine) -> dict[str, Any]:
    return {
        "component": part.component,
        "precision": part.precision,
        "weights_bytes": part.weights.value,
        "weights_source": part.weights.source,
        "activation_bytes": part.activation.value,
        "activation_source": part.activation.source,
        "kept": vars(part.kept) if part.kept else None,
        "runs": part.runs,
        "flops_of_a_run": part.flops,
        "bytes_moved_by_a_run": sum(operation.bytes for operation in part.operations),
        "seconds_of_a_run": part.seconds(machine.efficiency),
    }
