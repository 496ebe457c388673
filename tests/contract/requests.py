"""Requests that a family can do, chosen by its table alone: a new family needs no line here."""

from typing import Any

from videosdgx.families import FAMILIES
from videosdgx.families.common import MAX_STEPS
from videosdgx.families.request import InvalidInput, check_steps
from videosdgx.families.spec import Range, Variant

Values = dict[str, Any]


def variant_of(family: str) -> Variant:
    """The variant that the tests serve."""
    return FAMILIES[family].variant("demo")


def is_possible(variant: Variant, steps: int) -> bool:
    """Whether the variant can make a clip in so many sampling steps."""
    try:
        return check_steps("num_inference_steps", steps, variant, variant.window_size) == steps
    except InvalidInput:
        return False


def steps(variant: Variant, least: int) -> int:
    """The fewest possible sampling steps from `least` on; if there are none, the most below."""
    return next(count for count in (*range(least, MAX_STEPS + 1), *range(least, 0, -1)) if is_possible(variant, count))


def nearest(allowed: Range, wanted: float) -> int:
    """The value of a range that comes nearest."""
    return min(range(allowed.low, allowed.high + 1, allowed.step), key=lambda value: abs(value - wanted))


def small(family: str, seed: int = 7, example: int = 0) -> Values:
    """A clip of half the usual length in few steps: a second's work, and of a family that makes chunks more than one."""
    variant = variant_of(family)
    return {
        "prompt": FAMILIES[family].examples[example],
        "seed": seed,
        "num_frames": nearest(variant.frames, variant.num_frames / 2),
        "num_inference_steps": steps(variant, 4),
    }


def lasting(family: str, seed: int = 7) -> Values:
    """A clip that takes long enough to do something to the server meanwhile: a second or two."""
    variant = variant_of(family)
    if not variant.window_size:
        return small(family, seed) | {"num_frames": variant.frames.high, "num_inference_steps": steps(variant, MAX_STEPS)}
    # Each chunk has so many steps.
    count = steps(variant, MAX_STEPS // variant.window_size)
    return small(family, seed) | {"num_frames": variant.num_frames, "num_inference_steps": count}


def endless(family: str) -> Values:
    """The longest and largest clip, in the most steps: nobody waits for its end."""
    variant = variant_of(family)
    frames = variant.frames.high
    side = max(
        side
        for side in range(variant.sides.low, variant.sides.high + 1, variant.sides.step)
        if side**2 * frames <= variant.max_pixels
    )
    size = {"width": side, "height": side, "num_frames": frames}
    return small(family) | size | {"num_inference_steps": steps(variant, MAX_STEPS)}
