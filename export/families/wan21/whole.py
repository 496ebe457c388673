"""Wan 2.1's whole pipeline, for calibrating and verifying its demo."""

from pathlib import Path
from typing import Any

from diffusers import WanPipeline

from export.check import whole
from export.check.whole import Advance
from export.families.wan21 import policy, verify
from export.families.wan21.job import Job
from export.families.wan21.pipeline import load_pipeline, make_clips
from export.families.wan21.prompts import calibration_prompts, verification_prompts
from videosdgx.engines.onnxruntime_engine import OnnxRuntimeEngine


class WholePipeline(whole.WholePipeline):
    """Runs of `WanPipeline`."""

    job: Job

    def load(self) -> WanPipeline:
        """The real pipeline, unquantized."""
        return load_pipeline(self.root, self.job.variant, self.job.source.tensors)

    @property
    def calibration_prompts(self) -> list[str]:
        """What scales are collected on."""
        return calibration_prompts(self.job.settings.variant)

    @property
    def verification_prompts(self) -> list[str]:
        """As many as clips are asked for."""
        return verification_prompts(self.job.settings.variant, self.job.settings.clips)

    @property
    def layers(self) -> list[str]:
        """Every linear layer that some precision quantizes."""
        return policy.all_linears(self.job.config)

    @property
    def attentions(self) -> list[str]:
        """Every attention whose products may be in FP8."""
        return policy.fp8_attentions(self.job.config)

    def make_clips(self, pipe: Any, prompts: list[str], advance: Advance) -> object:
        """Run `pipe` on each prompt."""
        return make_clips(pipe, prompts, self.job.variant, advance)

    def reference(self, directory: Path, pipe: Any, prompts: list[str], advance: Advance) -> None:
        """Write the clips of the unquantized `pipe`, and velocities."""
        pipe.transformer = verify.as_stored(pipe.transformer)
        verify.reference(directory, pipe, prompts, self.job.variant, advance)

    def _engine(self, graph: Path) -> OnnxRuntimeEngine:
        """A graph on ONNX Runtime, which knows no profiles."""
        return OnnxRuntimeEngine(graph, self.manifest, self.job.threads)

    def fixed_snr(self, graph: Path, reference: Path) -> dict[str, float]:
        """Of velocities."""
        return verify.velocity_snr(self._engine(graph), reference)

    def against_simulation(self, graph: Path, maxima: dict[str, float], reference: Path) -> dict[str, float]:
        """The graph's errors against ModelOpt's FP8, NVFP4 in plain torch and FP8 attention."""
        job = self.job
        return verify.against_simulation(graph, self.pipe.transformer, job.formats, maxima, reference, job.fp8_attention)

    def clips(self, graph: Path, prompts: list[str], reference: Path, advance: Advance) -> dict[str, float]:
        """How far the graph's clips are from the unquantized ones."""
        return verify.clips(self._engine(graph), self.pipe, prompts, self.job.variant, reference, advance)
