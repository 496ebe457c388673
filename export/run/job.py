"""What one export is about: what was asked for, and the facts that all its stages share, whatever the family."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from export.check.accuracy import Bar
from export.checkpoint import reading
from export.graph.lowering import Build
from export.quantize.linears import Dtypes, Format
from export.run.errors import ExportError
from export.run.progress import Report
from export.run.stages import Workshop
from export.run.versions import versions
from videosdgx import artifacts
from videosdgx.artifacts import FusedLora, Target
from videosdgx.families.spec import FamilySpec, Variant

# ONNX Runtime computes in fp32 on a CPU.
CPU_DTYPES = Dtypes(compute=torch.float32, storage=torch.float16)


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    `family` is the package of `export` that knows the rest; `clips` is how many whole clips are compared (demo); `threads`
    limits the CPU (0: all cores); `layers` exports only the first blocks; `resolutions` (width, height) and `frames` are what
    an engine is compiled for (None: the variant's).
    """

    family: str
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


class Weights(Protocol):
    """Where the weights of an export come from."""

    @property
    def origin(self) -> str:
        """In words."""
        ...

    @property
    def content(self) -> dict[str, Any]:
        """The transformer's config.json."""
        ...

    @property
    def random(self) -> bool:
        """Whether they are drawn from a seed."""
        ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By name, each read when it is asked for."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of what they are."""
        ...

    @property
    def adapters(self) -> list[FusedLora]:
        """What was fused into them."""
        ...


class Job(ABC):
    """One export's settings with what follows from them."""

    spec: FamilySpec
    revision: int  # raise it when the same settings give another result than before

    def __init__(self, settings: Settings, report: Report) -> None:
        self.settings, self.report = settings, report
        self.variant: Variant = self.spec.variants[settings.variant]
        self.workshop = Workshop(settings.home / "work" / "export" / self.spec.name / settings.variant, settings.fresh)

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
        """The checkpoint's directory, downloaded if need be; None for random weights."""
        if self.settings.random_weights:
            return None
        return reading.resolve(self.settings.checkpoint or self.variant.checkpoint)

    @property
    @abstractmethod
    def source(self) -> Weights:
        """The transformer's weights."""

    @property
    @abstractmethod
    def num_layers(self) -> int:
        """How many blocks are exported."""

    @property
    @abstractmethod
    def formats(self) -> dict[str, Format]:
        """The format of every quantized layer."""

    @property
    @abstractmethod
    def fp8_attention(self) -> list[str]:
        """The attentions whose products are in FP8."""

    @property
    @abstractmethod
    def bars(self) -> list[Bar]:
        """What the export has to reach."""

    @abstractmethod
    def recipe(self) -> str:
        """A digest of everything that the transformer's artifact is made from."""

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the parts of the checkpoint that decide what an export is."""
        found = {"transformer": self.source.digest, "layers": str(self.num_layers)}
        if self.checkpoint is not None and self.is_demo:
            found |= {part: reading.digest(self.checkpoint / part) for part in ("text_encoder", "vae")}
        return found

    @property
    def wanted_maxima(self) -> list[str]:
        """What has to be calibrated: the input of each quantized layer, and q, k and v of each attention in FP8."""
        return [*self.formats, *(f"{name}.{part}" for name in self.fp8_attention for part in "qkv")]

    def build(self, dtypes: Dtypes) -> Build:
        """What the layers of a graph that computes in `dtypes` are made of."""
        return Build(self.formats, dtypes, frozenset(self.fp8_attention))

    @property
    def gpu_dtypes(self) -> Dtypes:
        """What an engine computes in: the published checkpoints in bf16, as they were trained, the demo in fp16."""
        half = torch.float16 if self.is_demo or self.settings.precision == "fp16" else torch.bfloat16
        return Dtypes(compute=half, storage=half)

    @property
    def shipped_dtypes(self) -> Dtypes:
        """What the engine that is exported computes in."""
        return CPU_DTYPES if self.settings.target == "cpu" else self.gpu_dtypes

    @property
    def directory(self) -> Path:
        """Where the transformer's artifact goes; a rehearsal with fewer blocks goes beside the real one."""
        settings = self.settings
        target = settings.target if settings.layers is None else f"{settings.target}-{settings.layers}layers"
        return artifacts.artifact_dir(
            settings.home, self.spec.name, settings.variant, "transformer", settings.precision, target
        )

    def versions(self) -> dict[str, str]:
        """The packages that made the artifact."""
        own = ("onnxruntime",) if self.settings.target == "cpu" else ("onnxruntime", self.settings.compiler)
        return versions("torch", "diffusers", "modelopt", "onnx", "onnxscript", *own)

    def require(self, accuracy: Mapping[str, float]) -> None:
        """Hold the figures against the family's bars.

        Raises:
            ExportError: one is beyond its bar.
        """
        failures = [text for bar in self.bars if (text := bar.failure(accuracy))]
        if failures:
            what = f"{self.settings.precision} of {self.settings.variant}"
            raise ExportError(f"{what} is not accurate enough: {'; '.join(failures)}")


def note(text: str, known: bool) -> str:
    """What a stage's line says; a stage that was found done says so."""
    return f"{text} (done before)" if known else text
