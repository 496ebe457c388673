"""Every value that a family's table rules out, with the words that its refusal must have: the input, and the limit."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.contract.requests import Values, is_possible
from videosdgx.families.common import MAX_STEPS
from videosdgx.families.request import STARTS
from videosdgx.families.spec import FamilySpec, Input, Range, Variant, plain


@dataclass(frozen=True)
class Case:
    """Values that cannot be used; `name` says why."""

    name: str
    values: Values
    words: tuple[str, ...]


def bad_values(spec: FamilySpec, variant: Variant) -> list[Case]:
    """One case for each way in which the value of an input, or several together, can be wrong."""
    found = [case for one in spec.inputs.values() for case in _of_one(one, variant)]
    return [*found, *_together(spec, variant)]


def _of_one(one: Input, variant: Variant) -> Iterator[Case]:
    def case(name: str, value: object, *words: str) -> Case:
        return Case(f"{one.name} {name}", {one.name: [value] if one.is_list else value}, words)

    if one.is_number:
        yield from (case(*parts) for parts in _numbers(one, variant))
    if one.file:
        # A variant that cannot begin with it says so, whatever it is.
        can = one.name not in STARTS or one.name in variant.starts_from
        yield case("is no such file", b"no such file", f"{one.name} is" if can else f"{one.name} was given, but variant")
    if one.datatype != "BYTES" or one.file:
        return
    yield case("is not UTF-8", b"\xff\xfe", f"{one.name} is not valid UTF-8")
    if one.most_characters is not None:
        for many in (one.most_characters + 1, 25 * one.most_characters):
            yield case(
                f"has {many} characters", "x" * many, f"{one.name} has {many} characters", f"at most {one.most_characters}"
            )
    if one.choices:
        yield case("is none of the choices", "none of them", f"{one.name} is 'none of them'", ", ".join(one.choices))
    if one.required:
        yield case("is empty", "", f"{one.name} is empty")
        yield case("is blank", " \n", f"{one.name} is empty")


def limits(one: Input, variant: Variant) -> Range | tuple[float, float] | None:
    """The least and the largest number: the variant's, or the table's."""
    ranges: dict[str, Range | tuple[float, float]] = {
        "width": variant.sides,
        "height": variant.sides,
        "num_frames": variant.frames,
        "duration": (0.0, variant.frames.high / variant.fps),
    }
    if one.name in ranges:
        return ranges[one.name]
    return None if one.low is None or one.high is None else (one.low, one.high)


def _numbers(one: Input, variant: Variant) -> Iterator[tuple[object, ...]]:
    """What is wrong, the value, and the words."""
    allowed = limits(one, variant)
    if one.datatype.startswith("FP"):
        for value in ("nan", "inf", "-inf"):
            yield f"is {value}", float(value), f"{one.name} is {value}"
    if allowed is None:
        return
    low, high = (allowed.low, allowed.high) if isinstance(allowed, Range) else allowed
    text = str(allowed) if isinstance(allowed, Range) else f"from {plain(low)} to {plain(high)}"
    beyond = {"is below": low - 1, "is far below": low - 10**6, "is above": high + 1, "is far above": high + 10**6}
    for name, number in beyond.items():
        value = number if isinstance(number, int) else float(np.float32(number))  # as it is sent
        yield name, value, f"{one.name} is {value}", text
    if isinstance(allowed, Range) and allowed.step > 1:
        yield "is between", low + 1, f"{one.name} is {low + 1}", text


def _together(spec: FamilySpec, variant: Variant) -> Iterator[Case]:
    """Values that are each allowed, but not for this variant, or not with one another."""
    longest: Values = {"width": variant.sides.high, "height": variant.sides.high, "num_frames": variant.frames.high}
    if variant.sides.high**2 * variant.frames.high > variant.max_pixels:
        yield Case("too many pixels", longest, ("width x height x num_frames", str(variant.max_pixels)))
    if "duration" in spec.inputs:
        both = {"num_frames": variant.num_frames, "duration": 0.1}
        yield Case("two lengths", both, ("duration and num_frames", "one of them"))
    if "png" in spec.inputs["response_format"].choices and variant.num_frames > 1:
        frames = {"response_format": "png", "num_frames": variant.num_frames}
        yield Case("a picture of a clip", frames, ("response_format", "num_frames 1"))
    steps = next((count for count in range(1, MAX_STEPS + 1) if not is_possible(variant, count)), None)
    if steps is not None:
        why = ", ".join(map(str, variant.step_counts)) if variant.step_counts else f"window_size {variant.window_size}"
        yield Case("impossible steps", {"num_inference_steps": steps}, (f"num_inference_steps is {steps}", why))
    if len(variant.starts_from) > 1 and set(variant.starts_from) <= spec.inputs.keys():
        named = " and ".join(start for start in STARTS if start in variant.starts_from)
        yield Case("two beginnings", {start: b"x" for start in variant.starts_from}, (named, "one of them"))
