"""MAGI-1's whole pipeline, for calibrating and verifying its demo."""

from pathlib import Path
from typing import Any

from export.check import whole
from export.check.whole import Advance
from export.families.magi1 import policy, verify
from export.families.magi1.job import Job
from export.families.magi1.pipeline import load_pipeline, make_clips
from export.families.magi1.prompts import calibration_prompts, verification_prompts
from videosdgx.families.magi1.pipeline import MagiPipeline


class WholePipeline(whole.WholePipeline):
    """Runs of `MagiPipeline`."""

    job: Job

    def load(self) -> MagiPipeline:
        """The real pipeline, unquantized."""
        return load_pipeline(self.root, self.job.source.tensors)

    @property
    def calibration_prompts(self) -> list[str]:
        """What scales are collected on."""
        return calibration_prompts()

    @property
    def verification_prompts(self) -> list[str]:
        """As many as clips are asked for."""
        return verification_prompts(self.job.settings.clips)

    @property
    def layers(self) -> list[str]:
        """Every linear layer that some precision quantizes."""
        return policy.all_linears(self.job.config)

    def make_clips(self, pipe: Any, prompts: list[str], advance: Advance) -> object:
        """Run `pipe` on each prompt."""
        return make_clips(pipe, prompts, self.job.variant, advance)

    def reference(self, directory: Path, pipe: Any, prompts: list[str], advance: Advance) -> None:
        """Write the clips of the unquantized `pipe`, and what its transformer is given and gives."""
        pipe.register_modules(transformer=verify.as_stored(pipe.transformer))
        verify.reference(directory, pipe, prompts, self.job.variant, advance)

    def fixed_snr(self, graph: Path, reference: Path) -> dict[str, float]:
        """Of velocities, and of a text's keys and values."""
        return verify.fixed_snr(graph, reference, self.job.threads)

    def against_simulation(self, graph: Path, maxima: dict[str, float], reference: Path) -> dict[str, float]:
        """The graphs' errors against ModelOpt's FP8 and NVFP4 in plain torch."""
        return verify.against_simulation(graph, self.pipe.transformer, self.job.formats, maxima, reference)

    def clips(self, graph: Path, prompts: list[str], reference: Path, advance: Advance) -> dict[str, float]:
        """How far the graphs' clips are from the unquantized ones."""
        where = (self.job.variant, reference, self.job.threads)
        return verify.clips(graph, self.manifest, self.pipe, prompts, *where, advance)
