"""One generation as a user asks for it: parsed, completed with the variant's defaults, and checked against its limits."""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from videosdgx.families.spec import Start, Variant
from videosdgx.media.prefix import Prefix, read_image, read_video

MAX_PROMPT_CHARACTERS = 4_000
MAX_SEED = 2**32 - 1
MAX_STEPS = 100
MAX_GUIDANCE = 30.0
MAX_FPS = 60
MAX_WINDOW = 4
QUARTERS = 4
STARTS: tuple[Start, ...] = ("image", "video")
RESPONSE_FORMATS = ("mp4", "b64_json", "path", "png")


class InvalidInput(ValueError):
    """A value that a user gave and that cannot be used. The message names the input, the value and the limit."""


@dataclass(frozen=True)
class GenerationRequest:
    """A complete, valid request. Sizes in pixels, `fps` in frames per second.

    `prefix` is what the clip starts from, already at its size and rate; `start` says whether that was an image or a video.
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


def _text(values: Mapping[str, Any], name: str, default: str) -> str:
    text = values.get(name, default)
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{name} is not valid UTF-8 at byte {error.start}") from None
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise InvalidInput(f"{name} has {len(text)} characters, at most {MAX_PROMPT_CHARACTERS} are allowed")
    return str(text)


def _whole(values: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = values.get(name, default)
    if not low <= value <= high:
        raise InvalidInput(f"{name} is {value}, it must be a whole number from {low} to {high}")
    return int(value)


def _real(values: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = float(values.get(name, default))
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidInput(f"{name} is {value}, it must be a number from {low:g} to {high:g}")
    return value


def _num_frames(values: Mapping[str, Any], variant: Variant, fps: int) -> int:
    if "duration" not in values:
        num_frames = int(values.get("num_frames", variant.num_frames))
        if num_frames not in variant.frames:
            raise InvalidInput(f"num_frames is {num_frames}, it must be {variant.frames}")
        return num_frames
    if "num_frames" in values:
        raise InvalidInput("duration and num_frames were both given, give one of them")
    duration = _real(values, "duration", 0.0, 0.0, variant.frames.high / fps)
    steps = round((duration * fps - variant.frames.low) / variant.frames.step)
    return variant.frames.low + max(0, steps) * variant.frames.step


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


def _prefix(
    values: Mapping[str, Any], variant: Variant, height: int, width: int, fps: int, num_frames: int
) -> tuple[Start | None, Prefix | None]:
    given = [name for name in STARTS if name in values]
    for name in given:
        if name not in variant.starts_from:
            kinds = " or ".join(("text", *variant.starts_from)) if variant.starts_from else "text only"
            raise InvalidInput(f"{name} was given, but variant {variant.name} makes video from {kinds}")
    if not given:
        return None, None
    if len(given) > 1:
        raise InvalidInput("image and video were both given, give one of them")
    (name,) = given
    try:
        if name == "image":
            return name, read_image(values[name], height, width)
        prefix = read_video(values[name], height, width, fps, num_frames)
    except ValueError as error:
        raise InvalidInput(f"{name} {error}") from None
    if len(prefix.frames) == num_frames:
        raise InvalidInput(f"{name} has {num_frames} frames at {fps} frames/s, as many as num_frames: nothing is left to make")
    return name, prefix


def parse_request(values: Mapping[str, Any], variant: Variant) -> GenerationRequest:
    """Turn input values (text as `bytes` or `str`, numbers) into a complete request.

    Args:
        values: the inputs that were given, by name; anything absent takes the variant's default. Without a `seed` one
            is drawn at random, and is reported in the metadata.
        variant: whose defaults and limits count.

    Raises:
        InvalidInput: naming the first input that cannot be used, and the limit.
    """
    prompt = _text(values, "prompt", "")
    if not prompt.strip():
        raise InvalidInput("prompt is empty, it must say what the video shows")
    sides = {"width": variant.width, "height": variant.height}
    for name in sides:
        sides[name] = int(values.get(name, sides[name]))
        if sides[name] not in variant.sides:
            raise InvalidInput(f"{name} is {sides[name]}, it must be {variant.sides}")
    fps = _whole(values, "fps", variant.fps, 1, MAX_FPS)
    num_frames = _num_frames(values, variant, fps)
    pixels = sides["width"] * sides["height"] * num_frames
    if pixels > variant.max_pixels:
        raise InvalidInput(
            f"width x height x num_frames is {pixels}, at most {variant.max_pixels} are allowed for variant {variant.name}"
        )
    response_format = _text(values, "response_format", "mp4")
    if response_format not in RESPONSE_FORMATS:
        raise InvalidInput(f"response_format is {response_format[:40]!r}, it must be one of {', '.join(RESPONSE_FORMATS)}")
    if response_format == "png" and num_frames != 1:
        raise InvalidInput(f"response_format is 'png', which needs num_frames 1, but num_frames is {num_frames}")
    window_size = _whole(values, "window_size", variant.window_size, 1, MAX_WINDOW) if variant.window_size else 0
    steps = int(values.get("num_inference_steps", variant.num_inference_steps))
    check_steps("num_inference_steps", steps, variant, window_size)
    seed = _whole(values, "seed", secrets.randbelow(MAX_SEED + 1), 0, MAX_SEED)
    guidance_scale = _real(values, "guidance_scale", variant.guidance_scale, 0.0, MAX_GUIDANCE)
    negative_prompt = _text(values, "negative_prompt", variant.negative_prompt)
    # Last, as it is the only check that takes time.
    start, prefix = _prefix(values, variant, sides["height"], sides["width"], fps, num_frames)
    return GenerationRequest(
        prompt=prompt,
        negative_prompt=negative_prompt,
        **sides,
        num_frames=num_frames,
        fps=fps,
        seed=seed,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        response_format=response_format,
        window_size=window_size,
        start=start,
        prefix=prefix,
    )
