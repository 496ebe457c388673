"""What a family is, as a table: its components, its inputs, its variants. No torch here: clients read it too.

Serving, export, planning, the client, the command line, the model repository and the tests read these tables. A component,
input, variant or precision that is in none of them is an error everywhere.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal, Protocol, TypeVar

from videosdgx.artifacts import FewStep, Target

# How noise becomes a clip: the official multistep solver, or for weights distilled to a few steps the sampler that
# mixes in fresh noise at every step, or Euler's steps.
Sampler = Literal["unipc", "renoise", "euler"]
# What a clip may begin with, besides text.
Start = Literal["image", "video"]
# Triton's names of element types.
Datatype = Literal["BYTES", "BOOL", "INT32", "INT64", "FP32", "FP64"]


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_N = TypeVar("_N", bound=_Named)


def by_name(items: Iterable[_N]) -> dict[str, _N]:
    """The items by their names, in their order.

    Raises:
        ValueError: two of them have the same name.
    """
    found: dict[str, _N] = {}
    for item in items:
        if item.name in found:
            raise ValueError(f"{item.name} is there twice")
        found[item.name] = item
    return found


def load(place: str) -> Any:
    """What a table names as `module:name`. The module is imported now, and with it perhaps torch.

    Raises:
        ImportError, AttributeError: there is no such module, or no such name in it.
    """
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Such as `, did you mean width?` for a name that is not known; empty if no known name is like it."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.65)
    return f", did you mean {near[0]}?" if near else ""


@dataclass(frozen=True)
class Range:
    """The values from `low` to `high` (both included) that are multiples of `step` counted from `low`."""

    low: int
    high: int
    step: int = 1

    def __contains__(self, value: float) -> bool:
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
    `lacks` says what has to be built before the variant can be used; until then it is refused by name.
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
    lacks: str = ""

    def sampled(self, few_step: FewStep | None) -> "Variant":
        """The variant as an artifact samples it: as it is, or in the few steps that its manifest says."""
        if few_step is None:
            return self
        return replace(
            self,
            sampler=few_step.sampler,
            num_inference_steps=few_step.steps,
            flow_shift=few_step.shift,
            guidance_scale=few_step.guidance_scale,
        )


@dataclass(frozen=True)
class Port:
    """A tensor that goes into a component's Triton model or comes out of it; -1 in `dims` stands for any length."""

    name: str
    datatype: Datatype
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class Component:
    """A part of a family that holds weights: the Triton model `<family>_<name>`, in a process of its own.

    Attributes:
        name: of the component, and of its folder in the checkpoint.
        inputs, outputs: of the Triton model.
        opener: `module:function`; it takes the artifact's directory and its verified manifest, and gives an `Engine`.
        torch: precision by target of the checkpoint's own weights, run by PyTorch; a component without has engines only.
        engine: the precisions that an engine of it can have, by target. A component that PyTorch can run as well is served
            by the first of them that was exported; any other by the one that is chosen for the family.
        stateful: it keeps something for each generation, which serving releases when the generation is over.
        about: what a reader of the Triton model's configuration should know.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    opener: str
    torch: Mapping[Target, str] = field(default_factory=dict)
    engine: Mapping[Target, tuple[str, ...]] = field(default_factory=dict)
    stateful: bool = False
    about: str = ""

    def served(self, target: Target, chosen: str) -> tuple[str, ...]:
        """Precisions of the artifacts that can serve it on `target`, the best first; `chosen` is the family's precision."""
        if target in self.torch:
            return (*self.engine.get(target, ()), self.torch[target])
        return (chosen,)


@dataclass(frozen=True)
class Input:
    """One input of a family's Triton models `<family>` and `<family>_stream`.

    Attributes:
        name, datatype, dims: as Triton has them; -1 in `dims` stands for any number of values.
        meaning: what it does, for `--help` and the README.
        limits: in words, where they are more than `low`, `high`, `choices` and `most_characters` say.
        low, high: the least and the largest number, both included; None: the variant says it, or nothing does.
        choices: the only texts that are allowed.
        most_characters: of a text.
        file: whether it is the content of a file, of which the command takes the name. Requests may have it as text too: as
            base64, or as a `data:` URL.
        colour: whether it is a colour as CSS writes them.
        option: the command's option, where that is not the name with dashes.
        required: whether a request must have it.
        default: what a request has that does not give it, where no variant says that.
    """

    name: str
    datatype: Datatype
    meaning: str
    limits: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    most_characters: int | None = None
    file: bool = False
    colour: bool = False
    option: str = ""
    required: bool = False
    default: str | float | None = None
    dims: tuple[int, ...] = (1,)

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers."""
        return self.datatype not in ("BYTES", "BOOL")

    @property
    def is_list(self) -> bool:
        """Whether a request may give any number of values."""
        return self.dims == (-1,)

    @property
    def allowed(self) -> str:
        """All its limits in words, such as `0 to 30`; empty if it has none."""
        words = [self.limits] if self.limits else []
        if self.most_characters is not None:
            words.insert(0, f"at most {self.most_characters} characters")
        if self.choices:
            words.insert(0, ", ".join(self.choices))
        if self.low is not None and self.high is not None:
            words.insert(0, f"{plain(self.low)} to {plain(self.high)}")
        return "; ".join(words)


def plain(number: float) -> str:
    """Whole numbers with all their digits, others as short as they can be."""
    return str(number) if isinstance(number, int) else f"{number:g}"


@dataclass(frozen=True)
class FamilySpec:
    """A family: its name in Triton, and everything in it.

    `default_precision` is that of its engines; `generate` is the function that makes a clip, as `module:function`.
    `examples` are prompts that its demo knows and that differ in every respect; `make demo` shows the first.
    """

    name: str
    title: str
    default_precision: str
    components: Mapping[str, Component]
    inputs: Mapping[str, Input]
    variants: Mapping[str, Variant]
    generate: str
    examples: tuple[str, ...]

    @property
    def precisions(self) -> tuple[str, ...]:
        """What can be chosen for the family: the precisions of its components that have engines only."""
        chosen = [component for component in self.components.values() if not component.torch]
        return tuple(dict.fromkeys(one for part in chosen for own in part.engine.values() for one in own))

    @property
    def stateful(self) -> tuple[str, ...]:
        """Names of the components that keep something for each generation."""
        return tuple(name for name, component in self.components.items() if component.stateful)

    def component(self, name: str) -> Component:
        """One of the components.

        Raises:
            ValueError: there is no such component.
        """
        return self._one_of("component", name, self.components)

    def variant(self, name: str) -> Variant:
        """One of the variants.

        Raises:
            ValueError: there is no such variant, or something of it is not built yet.
        """
        variant: Variant = self._one_of("variant", name, self.variants)
        if variant.lacks:
            raise ValueError(f"variant {name!r} of {self.name} cannot be used yet: {variant.lacks}")
        return variant

    @property
    def usable_variants(self) -> dict[str, Variant]:
        """The variants that lack nothing."""
        return {name: variant for name, variant in self.variants.items() if not variant.lacks}

    def _one_of(self, what: str, name: str, known: Mapping[str, Any]) -> Any:
        if name not in known:
            offered = [one for one, item in known.items() if not getattr(item, "lacks", "")]
            raise ValueError(f"unknown {what} {name!r} of {self.name}; there are: {', '.join(offered)}")
        return known[name]


def inputs_by_name(families: Iterable[FamilySpec]) -> dict[str, dict[Input, list[str]]]:
    """Every input of some families by its name, in each form that it has there, with the names of the families."""
    found: dict[str, dict[Input, list[str]]] = {}
    for family in families:
        for name, one in family.inputs.items():
            found.setdefault(name, {}).setdefault(one, []).append(family.name)
    return found
