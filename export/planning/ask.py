"""From what is typed to the clips that are planned. No torch here: a mistyped value is told at once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.options import check_size
from export.planning.engines import few_step
from export.planning.gb10 import Arithmetic
from export.planning.work import Request
from videosdgx.families.request import InvalidInput, check_steps
from videosdgx.families.spec import FamilySpec, Variant

_UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12, "MIB": 2.0**20, "GIB": 2.0**30, "TIB": 2.0**40}


@dataclass(frozen=True)
class Ask:
    """What is the same for all clips of a plan; None takes the variant's default. Resolution is (width, height)."""

    resolution: tuple[int, int] | None = None
    frames: int | None = None
    steps: int | None = None
    guided: bool = True
    fp8_attention: bool = False


def parse_bytes(name: str, text: str) -> float:
    """Bytes of a text such as `128GB` or `119GiB`.

    Raises:
        InvalidInput: it is not a number with a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", text, re.IGNORECASE)
    if not found or found[2].upper() not in _UNITS:
        raise InvalidInput(f"{name} is {text!r}, it must be a number with MB, GB, TB, MiB, GiB or TiB, such as 128GB")
    return float(found[1]) * _UNITS[found[2].upper()]


def _chosen(what: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise InvalidInput(f"{what} is {value!r}, it must be one of {', '.join(allowed)}")
    return value


def _variant(spec: FamilySpec, name: str) -> Variant:
    try:
        return spec.variant(name)
    except ValueError as error:
        raise InvalidInput(str(error)) from None


def _request(spec: FamilySpec, variant: Variant, precision: str, ask: Ask, home: Path | None) -> Request:
    few = few_step(home, spec, variant.name, precision) if home else None
    variant, guided = variant.sampled(few), ask.guided and (few is None or few.guidance_scale > 1)
    width, height = ask.resolution or (variant.width, variant.height)
    frames = variant.num_frames if ask.frames is None else ask.frames
    steps = variant.num_inference_steps if ask.steps is None else ask.steps
    check_size(variant, width, height, frames)
    check_steps("steps", steps, variant, variant.window_size)
    attention: Arithmetic = "fp8" if ask.fp8_attention else "fp16"
    return Request(spec.name, variant, precision, width, height, frames, steps, guided, attention)


def requests(
    targets: Sequence[str],
    families: Mapping[str, FamilySpec],
    ask: Ask,
    shown: Sequence[str] | None = None,
    home: Path | None = None,
) -> tuple[list[Request], list[str]]:
    """The clips that `targets` name (FAMILY[:VARIANT[:PRECISION]]; none at all: everything), and why some are left out.

    A variant that was not named and cannot make such a clip is left out.

    Args:
        targets: as typed.
        families: their tables, by name.
        shown: the precisions of transformers that a target without a precision means; by default all.
        ask: what is the same for all clips.
        home: where artifacts are: an engine whose weights were distilled to few steps makes its clip so.

    Raises:
        ArtifactError: there is a manifest and it is not valid.
        InvalidInput: naming the value and the limit.
    """
    found: list[Request] = []
    left_out: list[str] = []
    reason: InvalidInput | None = None
    for target in targets or list(families):
        family, *rest = target.split(":")
        spec = families[_chosen("family", family, list(families))]
        if len(rest) > 2:
            raise InvalidInput(f"target is {target!r}, it must be FAMILY, FAMILY:VARIANT or FAMILY:VARIANT:PRECISION")
        variants = [_variant(spec, rest[0])] if rest else list(spec.usable_variants.values())
        chosen = [_chosen("precision", rest[1], spec.precisions)] if len(rest) == 2 else list(shown or spec.precisions)
        for variant in variants:
            try:
                found += [_request(spec, variant, precision, ask, home) for precision in chosen]
            except InvalidInput as error:
                if rest:
                    raise
                left_out.append(f"{family}:{variant.name} is left out: {error}")
                reason = error
    if not found:
        raise InvalidInput(f"no variant can make such a clip: {reason}")
    return list(dict.fromkeys(found)), left_out
