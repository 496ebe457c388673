"""Calibrating and verifying a checkpoint that is small enough to make whole clips here: the demo of a family."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from export.check.accuracy import rounded, write_figures
from export.quantize.calibration import input_maxima
from export.run.job import Job, note
from export.run.stages import digest
from export.run.versions import versions
from videosdgx.artifacts import Manifest

Advance = Callable[[float], None]


class WholePipeline(ABC):
    """Runs of the real pipeline: scales are collected on them, and clips compared with theirs.

    What a family has of its own is abstract: its prompts, its pipeline, and how it compares.
    """

    def __init__(self, job: Job, root: Path, manifest: Manifest) -> None:
        """`root` is the checkpoint's directory; `manifest` says what goes into the transformer and out of it."""
        self.job, self.root, self.manifest = job, root, manifest

    @abstractmethod
    def load(self) -> Any:
        """The real pipeline, unquantized."""

    @property
    @abstractmethod
    def calibration_prompts(self) -> list[str]:
        """What scales are collected on."""

    @property
    @abstractmethod
    def verification_prompts(self) -> list[str]:
        """As many as clips are asked for."""

    @property
    @abstractmethod
    def layers(self) -> list[str]:
        """Every linear layer that some precision quantizes."""

    @property
    def attentions(self) -> list[str]:
        """Every attention whose products may be in FP8."""
        return []

    @abstractmethod
    def make_clips(self, pipe: Any, prompts: list[str], advance: Advance) -> object:
        """Run `pipe` on each prompt."""

    @abstractmethod
    def reference(self, directory: Path, pipe: Any, prompts: list[str], advance: Advance) -> None:
        """Write the clips of the unquantized `pipe`, its matrices rounded as engines store them, and fixed tensors."""

    @abstractmethod
    def fixed_snr(self, graph: Path, reference: Path) -> dict[str, float]:
        """Signal-to-noise ratios in dB of the graph's outputs for the fixed tensors."""

    @abstractmethod
    def against_simulation(self, graph: Path, maxima: dict[str, float], reference: Path) -> dict[str, float]:
        """The graph's errors against the simulated formats, for the fixed tensors."""

    @abstractmethod
    def clips(self, graph: Path, prompts: list[str], reference: Path, advance: Advance) -> dict[str, float]:
        """How far the graph's clips are from the unquantized ones."""

    @cached_property
    def pipe(self) -> Any:
        """The real pipeline, unquantized, loaded when a stage first needs it."""
        return self.load()

    def calibrate(self) -> dict[str, float]:
        """Largest absolute input of each quantized layer, from real pipeline runs."""
        job = self.job
        if not job.wanted_maxima:
            return {}
        prompts, layers = self.calibration_prompts, [*self.layers, *self.attentions]
        facts = {"revision": job.revision, "checkpoint": job.digests, "prompts": prompts, "layers": layers}
        with job.report.step("calibrate", len(prompts)) as step:

            def build(directory: Path) -> None:
                pipe = self.load()

                def run() -> None:
                    self.make_clips(pipe, prompts, step.advance)

                maxima = input_maxima(pipe.transformer, self.layers, run, self.attentions)
                (directory / "maxima.json").write_text(json.dumps(maxima, indent=1))

            directory, known = job.workshop.stage("calibration", facts, build)
            step.note(note(f"{len(prompts)} prompts", known))
        maxima: dict[str, float] = json.loads((directory / "maxima.json").read_bytes())
        return {name: maxima[name] for name in job.wanted_maxima}

    def _reference_facts(self) -> dict[str, object]:
        """What the unquantized pipeline's clips and tensors are made from."""
        return {
            "revision": self.job.revision,
            "checkpoint": self.job.digests,
            "prompts": self.verification_prompts,
            "versions": versions("torch", "diffusers", "transformers"),
        }

    def verify(self, graph: Path, maxima: dict[str, float]) -> dict[str, float]:
        """Accuracy of `graph` on ONNX Runtime against the unquantized pipeline.

        Raises:
            ExportError: a figure is beyond the family's bar.
        """
        job, prompts = self.job, self.verification_prompts
        with job.report.step("verify", 2 * len(prompts) + 1) as step:

            def build_reference(directory: Path) -> None:
                self.reference(directory, self.load(), prompts, step.advance)

            def build(directory: Path) -> None:
                figures = self.fixed_snr(graph, reference) | self.against_simulation(graph, maxima, reference)
                step.advance()
                figures |= self.clips(graph, prompts, reference, step.advance)
                write_figures(directory / "accuracy.json", figures)

            reference, _ = job.workshop.stage("reference", self._reference_facts(), build_reference)
            facts = {
                "reference": reference.name,
                "graph": graph.name,
                "versions": versions("onnxruntime", "modelopt", "diffusers", "torch"),
            }
            directory, known = job.workshop.stage("accuracy", facts, build)
            accuracy: dict[str, float] = json.loads((directory / "accuracy.json").read_bytes())
            step.note(note(f"{len(prompts)} clips, PSNR {accuracy['clip_psnr_db_mean']:.1f} dB", known))
        job.require(accuracy)
        return accuracy

    def verify_fp16(self, graph: Path) -> dict[str, float]:
        """Outputs of the graph that is compiled (it computes in fp16), on ONNX Runtime."""
        with self.job.report.step("verify fp16") as step:
            (reference,) = self.job.workshop.root.glob(f"reference-{digest(self._reference_facts())[:16]}")
            figures = self.fixed_snr(graph, reference)
            step.note(", ".join(f"{value:.1f}" for value in figures.values()) + " dB")
        return rounded({name.replace("_snr", "_fp16_snr"): value for name, value in figures.items()})
