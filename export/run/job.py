"""What one export is about: what was asked for, and the facts that all its stages share."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from export import compile as compiling
from export.checkpoint import lora, reading
from export.checkpoint.source import Source
from export.graph.lowering import Build
from export.quantize.linears import Dtypes, Format
from export.run.errors import ExportError
from export.run.progress import Report
from export.run.recipe import Recipe
from export.run.stages import Workshop, digest
from export.run.versions import versions
from videosdgx import artifacts
from videosdgx.artifacts import FewStep, Target

# ONNX Runtime computes in fp32 on a CPU.
CPU_DTYPES = Dtypes(compute=torch.float32, storage=torch.float16)


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    `clips` is how many whole clips are compared (demo); `threads` limits the CPU (0: all cores); `layers` exports only the
    first blocks; `resolutions` (width, height) and `frames` are what an engine is compiled for (None: the variant's).
    `few_step` is in how many steps weights make a clip that were distilled to few (None: they were not), by `few_step_sampler`.
    """

    home: Path
    variant: str
    precision: str
    target: Target
    compiler: str = "tensorrt_rtx"
    checkpoint: str | None = None
    random_weights: bool = False
    layers: int | None = None
    resolutions: tuple[tuple[int, int], ...] = ()
    frames: int | None = None
    clips: int = 4
    threads: int = 0
    fresh: bool = False
    fp8_attention: bool = False
    loras: tuple[str, ...] = ()
    few_step: int | None = None
    few_step_sampler: Literal["renoise", "euler"] = "renoise"


class Job:
    """One export's settings and recipe, with what follows from them."""

    def __init__(self, recipe: Recipe, settings: Settings, report: Report) -> None:
        """
        Raises:
            ExportError: the family has no such thing as one of the settings asks for.
        """
        self.recipe, self.settings, self.report = recipe, settings, report
        self.spec, self.component = recipe.spec, recipe.component
        self.variant = self.spec.variant(settings.variant).sampled(self.few_step)
        self.workshop = Workshop(settings.home / "work" / "export" / self.spec.name / settings.variant, settings.fresh)
        if settings.fp8_attention and recipe.policy.fp8_attentions is None:
            raise ExportError(f"--fp8-attention is not for the {self.component} of {self.spec.name}")
        if settings.loras and recipe.network.original_name is None:
            raise ExportError(f"--lora is not for the {self.component} of {self.spec.name}")

    @property
    def few_step(self) -> FewStep | None:
        """How the weights make a clip, if they were distilled to a few steps.

        Raises:
            ExportError: the family has no such weights.
        """
        settings = self.settings
        if settings.few_step is None:
            return None
        if self.recipe.few_step_shift is None:
            raise ExportError(f"--few-step is not for the {self.component} of {self.spec.name}")
        return FewStep(sampler=settings.few_step_sampler, steps=settings.few_step, shift=self.recipe.few_step_shift)

    # What is exported ------------------------------------------------------------------------------------------------

    @property
    def is_demo(self) -> bool:
        """Whether the checkpoint is small enough to make whole clips here."""
        return self.settings.variant == "demo"

    @property
    def threads(self) -> int:
        """CPU threads; the demo's matrices are too small to share, its threads would wait for one another."""
        return self.settings.threads or (1 if self.is_demo else 0)

    @cached_property
    def checkpoint(self) -> Path | None:
        """The checkpoint's directory in diffusers' layout, downloaded if need be; None for random weights."""
        settings = self.settings
        if settings.random_weights:
            return None
        return self.recipe.locate(settings.checkpoint or self.variant.checkpoint, settings.variant, settings.home)

    @cached_property
    def source(self) -> Source:
        """The component's weights."""
        settings, network, root = self.settings, self.recipe.network, self.checkpoint
        if root is None:
            return Source(network, "random weights", None, network.published(settings.variant), settings.layers)
        given = settings.checkpoint not in (None, self.variant.checkpoint)
        loras = tuple(lora.parse(text) for text in settings.loras)
        directory = root / self.component
        origin = root.name if given else self.variant.checkpoint
        return Source(network, origin, directory, reading.config(directory), settings.layers, loras)

    @property
    def config(self) -> Any:
        """The shape of the network that is exported."""
        return self.source.config

    @cached_property
    def formats(self) -> dict[str, Format]:
        """The format of every quantized layer."""
        return self.recipe.policy.formats(self.config, self.settings.precision)

    @cached_property
    def fp8_attention(self) -> list[str]:
        """The attentions whose products are in FP8."""
        return self.attentions if self.settings.fp8_attention else []

    @property
    def linears(self) -> list[str]:
        """Every linear layer that some precision quantizes."""
        return self.recipe.policy.linears(self.config)

    @property
    def attentions(self) -> list[str]:
        """Every attention whose products may be in FP8."""
        return self.recipe.policy.fp8_attentions(self.config) if self.recipe.policy.fp8_attentions else []

    @property
    def wanted_maxima(self) -> list[str]:
        """What has to be calibrated: the input of each quantized layer, and q, k and v of each attention in FP8."""
        return [*self.formats, *(f"{name}.{part}" for name in self.fp8_attention for part in "qkv")]

    @property
    def calibration_prompts(self) -> list[str]:
        """What the scales are collected on."""
        recipe = self.recipe
        if self.is_demo:
            return recipe.whole.calibration_prompts(self.settings.variant) if recipe.whole else []
        return list(recipe.blocks.prompts) if recipe.blocks and not self.source.random else []

    # How it is made --------------------------------------------------------------------------------------------------

    @property
    def gpu_dtypes(self) -> Dtypes:
        """What an engine computes in: the published checkpoints in bf16, as they were trained, the demo in fp16."""
        half = torch.float16 if self.is_demo or self.settings.precision == "fp16" else torch.bfloat16
        return Dtypes(compute=half, storage=half)

    @property
    def shipped_dtypes(self) -> Dtypes:
        """What the engine that is exported computes in."""
        return CPU_DTYPES if self.settings.target == "cpu" else self.gpu_dtypes

    def build(self, dtypes: Dtypes) -> Build:
        """What the layers of a graph that computes in `dtypes` are made of."""
        return Build(self.formats, dtypes, frozenset(self.fp8_attention))

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the parts of the checkpoint that decide what an export is."""
        found = {self.component: self.source.digest}
        if self.recipe.network.block:
            found["layers"] = str(self.source.num_layers)
        if self.few_step is not None:  # what is calibrated and compared is made so
            found["few_step"] = self.few_step.model_dump_json()
        if self.checkpoint is not None and self.is_demo and self.recipe.whole:
            # Whole clips are made with the parts beside it too.
            others = (name for name, part in self.spec.components.items() if part.torch)
            found |= {name: reading.digest(self.checkpoint / name) for name in others}
        return found

    def versions(self) -> dict[str, str]:
        """The packages that made the artifact."""
        own = ("onnxruntime",) if self.settings.target == "cpu" else ("onnxruntime", self.settings.compiler)
        return versions("torch", "diffusers", "modelopt", "onnx", "onnxscript", *own)

    # What becomes of it ----------------------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """Where the artifact goes; a rehearsal with fewer blocks goes beside the real one."""
        settings = self.settings
        target = settings.target if settings.layers is None else f"{settings.target}-{settings.layers}layers"
        return artifacts.artifact_dir(
            settings.home, self.spec.name, settings.variant, self.component, settings.precision, target
        )

    def fingerprint(self) -> str:
        """A digest of everything that the artifact is made from: an export that would make it again need not run."""
        settings, recipe = self.settings, self.recipe
        compiled = settings.target != "cpu"
        facts: dict[str, Any] = {
            "revision": recipe.revision,
            "checkpoint": self.digests,
            "formats": self.formats,
            "target": settings.target,
            "compiler": f"{settings.compiler} {compiling.REVISION}" if compiled else None,
            "profiles": self._profile_facts() if compiled else [],
            "prompts": recipe.whole.calibration_prompts(settings.variant) if recipe.whole else [],
            "versions": self.versions(),
        }
        if recipe.policy.fp8_attentions is not None:
            facts["fp8_attention"] = self.fp8_attention
        return digest(facts)

    def _profile_facts(self) -> list[Any]:
        """The ranges of shapes, engine by engine, in the form that earlier artifacts have: so they stay current."""
        engines = self.recipe.engines(self)
        cached = any(profile.cache_bytes is not None for engine in engines for profile in engine.profiles)
        left_out = set() if cached else {"cache_bytes"}
        facts = [[profile.model_dump(exclude=left_out) for profile in engine.profiles] for engine in engines]
        return facts if len(facts) > 1 else facts[0]

    def require(self, accuracy: Mapping[str, float]) -> None:
        """Hold the figures against the family's bars.

        Raises:
            ExportError: one is beyond its bar.
        """
        bars = self.recipe.policy.bars(self.settings.precision)
        failures = [text for bar in bars if (text := bar.failure(accuracy))]
        if failures:
            what = f"{self.settings.precision} of {self.settings.variant}"
            raise ExportError(f"{what} is not accurate enough: {'; '.join(failures)}")


def note(text: str, known: bool) -> str:
    """What a stage's line says; a stage that was found done says so."""
    return f"{text} (done before)" if known else text
