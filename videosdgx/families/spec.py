"""What a family is: the facts that validation, serving, export and planning share. No torch here: clients read it too."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# How noise becomes a clip: the official multistep solver, or for weights distilled to a few steps the sampler that
# mixes in fresh noise at every step, or Euler's steps.
Sampler = Literal["unipc", "renoise", "euler"]
# What a clip may begin with, besides text.
Start = Literal["image", "video"]


@dataclass(frozen=True)
class Range:
    """The values from `low` to `high` (both included) that are multiples of `step` counted from `low`."""

    low: int
    high: int
    step: int = 1

    def __contains__(self, value: int) -> bool:
        return self.low <= value <= self.high and (value - self.low) % self.step == 0

    def __str__(self) -> str:
        """Such as `a multiple of 16 from 16 to 128`, for error messages."""
        if self.step == 1:
            return f"a whole number from {self.low} to {self.high}"
        if self.low % self.step == 0:
            return f"a multiple of {self.step} from {self.low} to {self.high}"
        return f"{self.step}k+{self.low % self.step} from {self.low} to {self.high}"


@dataclass(frozen=True)
class Variant:
    """One checkpoint of a family: its defaults and limits.

    Sizes are in pixels, `fps` in frames per second. `checkpoint` is a Hugging Face repository, or a folder of the
    checkout for the demo. `flow_shift` is the scheduler's; `max_pixels` bounds width x height x num_frames.
    `sampler` is what the weights were trained for, so it is part of the variant, and so are `step_counts` (any, if empty).
    A family that makes a clip in chunks has `window_size` of them in work at once; 0 means that a clip is made as a whole.
    """

    name: str
    checkpoint: str
    width: int
    height: int
    num_frames: int
    fps: int
    num_inference_steps: int
    guidance_scale: float
    flow_shift: float
    sides: Range
    frames: Range
    max_pixels: int
    negative_prompt: str = ""
    sampler: Sampler = "unipc"
    starts_from: tuple[Start, ...] = ()
    window_size: int = 0
    step_counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class FamilySpec:
    """A family: its name in Triton, its components, its variants.

    `components` maps a component (the Triton model `<family>_<component>`) to its outputs. Those named in `stateful` keep
    something for each generation, and are told when it is over. `entry` is the family's module that has `generate`.
    In `decoder_precisions` the VAE's decoder can be an engine for sm121; the first of them that was exported is served.
    """

    name: str
    title: str
    components: Mapping[str, tuple[str, ...]]
    default_precision: str
    precisions: tuple[str, ...]
    variants: dict[str, Variant]
    stateful: tuple[str, ...] = ()
    decoder_precisions: tuple[str, ...] = ()
    entry: str = "pipeline"
