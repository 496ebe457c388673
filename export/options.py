"""Values that several commands take in the same form. No torch here: a mistyped value is told at once."""

import re

from videosdgx.families.request import InvalidInput
from videosdgx.families.spec import Variant


def parse_resolution(text: str) -> tuple[int, int]:
    """Width and height of a text such as `832x480`.

    Raises:
        InvalidInput: it is not two whole numbers with an x between.
    """
    found = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text.strip())
    if not found:
        raise InvalidInput(f"resolution is {text!r}, it must be WIDTHxHEIGHT in pixels, such as 832x480")
    return int(found[1]), int(found[2])


def check_size(variant: Variant, width: int, height: int, frames: int) -> None:
    """Raise InvalidInput, which names the limit, unless a variant can make clips of this size (pixels) and length."""
    for side, length in (("width", width), ("height", height)):
        if length not in variant.sides:
            raise InvalidInput(f"{side} is {length}, it must be {variant.sides} for {variant.name}")
    if frames not in variant.frames:
        raise InvalidInput(f"frames is {frames}, it must be {variant.frames} for {variant.name}")
    if width * height * frames > variant.max_pixels:
        size = f"width x height x frames is {width * height * frames}"
        raise InvalidInput(f"{size}, at most {variant.max_pixels} are allowed for {variant.name}")
