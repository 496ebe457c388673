"""One generation as a user asks for it: read by the family's table, completed with the variant's defaults, and checked."""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from videosdgx.families.common import MAX_SEED, MAX_STEPS
from videosdgx.families.spec import FamilySpec, Input, Range, Start, Variant, did_you_mean, plain
from videosdgx.media.kinds import file_of
from videosdgx.media.pictures import BLACK, colour
from videosdgx.media.prefix import Prefix, read_image, read_video

QUARTERS = 4
STARTS: tuple[Start, ...] = ("image", "video")
# What a variant says of a request that does not.
_BY_VARIANT = (
    "negative_prompt", "width", "height", "num_frames", "fps", "num_inference_steps", "guidance_scale", "window_size",
)  # fmt: skip
# Inputs that become something else: `num_frames`, and `start` with `prefix`.
_TURNED = ("duration", *STARTS, "background")

# The least and the largest number, or those of a range.
Limits = Range | tuple[float, float]


class InvalidInput(ValueError):
    """A value that a user gave and that cannot be used. The message names the input, the value and the limit."""


@dataclass(frozen=True)
class GenerationRequest:
    """A complete, valid request. Sizes in pixels, `fps` in frames per second.

    `prefix` is what the clip starts from, already at its size and rate; `start` says whether that was an image or a video.
    `more` has the inputs for which there is no field, by name, so that a family can have inputs of its own.
    """

    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_frames: int
    fps: int
    seed: int
    num_inference_steps: int
    guidance_scale: float
    response_format: str
    window_size: int = 0
    start: Start | None = None
    prefix: Prefix | None = field(default=None, compare=False)
    more: Mapping[str, Any] = field(default_factory=dict)

    def numbers(self, spec: FamilySpec) -> dict[str, Any]:
        """Every number of the request that is an input of its family, by name. A duration has become `num_frames`."""
        known = {**self.more, **vars(self)}
        return {name: known[name] for name, one in spec.inputs.items() if one.is_number and name in known}


def parse_request(values: Mapping[str, Any], spec: FamilySpec, variant: Variant) -> GenerationRequest:
    """Turn input values (text as `bytes` or `str`, numbers) into a complete request.

    Args:
        values: the inputs that were given, by name; anything absent takes the variant's default. Without a `seed` one
            is drawn at random, and is reported in the metadata.
        spec: the family, whose table says what inputs there are.
        variant: whose defaults and limits count.

    Raises:
        InvalidInput: naming the first input that cannot be used, and the limit.
    """
    for name in values:
        if name not in spec.inputs:
            raise InvalidInput(f"{name} is no input of {spec.name}{did_you_mean(name, spec.inputs)}")
    fps = _read(spec.inputs["fps"], values["fps"], None) if "fps" in values else variant.fps
    limits: dict[str, Limits] = {
        "width": variant.sides,
        "height": variant.sides,
        "num_frames": variant.frames,
        "duration": (0.0, variant.frames.high / fps),
    }
    given = {
        name: _read(one, values.get(name, ""), limits.get(name))
        for name, one in spec.inputs.items()
        if name in values or one.required
    }
    chosen: dict[str, Any] = {name: getattr(variant, name) for name in _BY_VARIANT}
    chosen |= {name: one.default for name, one in spec.inputs.items() if one.default is not None}
    chosen |= {"seed": secrets.randbelow(MAX_SEED + 1)} | given
    if "duration" in given:
        chosen["num_frames"] = _nearest_length(given, variant, fps)
    _check_together(chosen, variant)
    # Last, as it is the only check that takes time.
    start, prefix = _prefix(given, variant, chosen)
    fields = GenerationRequest.__dataclass_fields__
    return GenerationRequest(
        **{name: value for name, value in chosen.items() if name in fields},
        start=start,
        prefix=prefix,
        more={name: value for name, value in chosen.items() if name not in fields and name not in _TURNED},
    )


def _read(one: Input, value: Any, limits: Limits | None) -> Any:
    """The value of an input as its table has it: text as `str`, a file as `bytes`, numbers as Python's, or a list of those.

    `limits` are the variant's; without, those of the table count.
    """
    if one.is_list:
        if not isinstance(value, list | tuple):
            raise InvalidInput(f"{one.name} is {value!r}, it must be a list")
        return [_read_one(one, item, limits) for item in value]
    return _read_one(one, value, limits)


def _read_one(one: Input, value: Any, limits: Limits | None) -> Any:
    if one.datatype == "BYTES":
        return _file(one, value) if one.file else _text(one, value)
    if one.datatype == "BOOL":
        if not isinstance(value, bool | np.bool_):
            raise InvalidInput(f"{one.name} is {value!r}, it must be true or false")
        return bool(value)
    if limits is None and one.low is not None and one.high is not None:
        limits = one.low, one.high
    return _number(one, value, limits)


def _number(one: Input, value: Any, limits: Limits | None) -> int | float:
    whole = one.datatype.startswith("INT")
    allowed = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise InvalidInput(f"{one.name} is {value!r}, it must be {allowed}")
    fits = math.isfinite(value) and (not whole or value == int(value))
    number = int(value) if whole and fits else float(value)
    if isinstance(limits, Range):
        fits, allowed = fits and number in limits, str(limits)
    elif limits is not None:
        low, high = limits
        fits, allowed = fits and low <= number <= high, f"{allowed} from {plain(low)} to {plain(high)}"
    if not fits:
        raise InvalidInput(f"{one.name} is {number}, it must be {allowed}")
    return number


def _file(one: Input, value: Any) -> bytes:
    """The file that was given, as it is, or as text: base64 or a `data:` URL."""
    data = value.encode(errors="replace") if isinstance(value, str) else value
    if not isinstance(data, bytes):
        raise InvalidInput(f"{one.name} is of type {type(value).__name__}, it must be the bytes of a file")
    try:
        file = file_of(data)
    except ValueError as error:
        raise InvalidInput(f"{one.name} {error}") from None
    if isinstance(value, str) and file == data:
        raise InvalidInput(f"{one.name} must be the bytes of a file, or text that is their base64 or a data: URL")
    return file


def _text(one: Input, value: Any) -> str:
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{one.name} is not valid UTF-8 at byte {error.start}") from None
    if not isinstance(value, str):
        raise InvalidInput(f"{one.name} is {value!r}, it must be text")
    if one.most_characters is not None and len(value) > one.most_characters:
        raise InvalidInput(f"{one.name} has {len(value)} characters, at most {one.most_characters} are allowed")
    if one.choices and value not in one.choices:
        raise InvalidInput(f"{one.name} is {value[:40]!r}, it must be one of {', '.join(one.choices)}")
    if one.colour:
        try:
            colour(value)
        except ValueError:
            raise InvalidInput(f"{one.name} is {value!r}, it must be a colour such as #rrggbb or white") from None
    if one.required and not value.strip():
        raise InvalidInput(f"{one.name} is empty, it must say {one.meaning}")
    return value


def _nearest_length(given: Mapping[str, Any], variant: Variant, fps: int) -> int:
    """The possible number of frames that comes nearest to the duration."""
    if "num_frames" in given:
        raise InvalidInput("duration and num_frames were both given, give one of them")
    steps = round((given["duration"] * fps - variant.frames.low) / variant.frames.step)
    return variant.frames.low + max(0, steps) * variant.frames.step


def _check_together(chosen: Mapping[str, Any], variant: Variant) -> None:
    """Check what no input says by itself."""
    num_frames = chosen["num_frames"]
    pixels = chosen["width"] * chosen["height"] * num_frames
    if pixels > variant.max_pixels:
        raise InvalidInput(
            f"width x height x num_frames is {pixels}, at most {variant.max_pixels} are allowed for variant {variant.name}"
        )
    if chosen["response_format"] == "png" and num_frames != 1:
        raise InvalidInput(f"response_format is 'png', which needs num_frames 1, but num_frames is {num_frames}")
    check_steps("num_inference_steps", chosen["num_inference_steps"], variant, chosen["window_size"])


def check_steps(name: str, steps: int, variant: Variant, window_size: int) -> int:
    """`steps`, which the user gave as `name`, if a clip of `variant` can be made in so many with such a window.

    Raises:
        InvalidInput: it cannot.
    """
    if not 1 <= steps <= MAX_STEPS:
        raise InvalidInput(f"{name} is {steps}, it must be a whole number from 1 to {MAX_STEPS}")
    if variant.step_counts and steps not in variant.step_counts:
        allowed = ", ".join(map(str, variant.step_counts))
        raise InvalidInput(f"{name} is {steps}, variant {variant.name} takes {allowed}")
    # A chunk spends the same number of steps at each place of the window, and in each quarter of the schedule.
    divisor = math.lcm(window_size, QUARTERS) if window_size else 1
    if steps % divisor:
        raise InvalidInput(f"{name} is {steps}, it must be a multiple of {divisor} with window_size {window_size}")
    return steps


def _prefix(given: Mapping[str, Any], variant: Variant, chosen: Mapping[str, Any]) -> tuple[Start | None, Prefix | None]:
    """What the clip starts from, at its size and rate."""
    names = [name for name in STARTS if name in given]
    for name in names:
        if name not in variant.starts_from:
            kinds = " or ".join(("text", *variant.starts_from)) if variant.starts_from else "text only"
            raise InvalidInput(f"{name} was given, but variant {variant.name} makes video from {kinds}")
    if not names:
        return None, None
    if len(names) > 1:
        raise InvalidInput("image and video were both given, give one of them")
    (name,) = names
    height, width, fps, num_frames = (chosen[one] for one in ("height", "width", "fps", "num_frames"))
    background = chosen.get("background", BLACK)
    try:
        if name == "image":
            return name, read_image(given[name], height, width, background)
        prefix = read_video(given[name], height, width, fps, num_frames, background)
    except ValueError as error:
        raise InvalidInput(f"{name} {error}") from None
    if len(prefix.frames) == num_frames:
        raise InvalidInput(f"{name} has {num_frames} frames at {fps} frames/s, as many as num_frames: nothing is left to make")
    return name, prefix
