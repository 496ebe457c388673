"""Wan 2.1's blocks one at a time, for calibrating and verifying a full-size checkpoint."""

from collections.abc import Callable, Mapping
from pathlib import Path

from export.check import blockwise
from export.check.blockwise import BlockInputs
from export.families.wan21 import block_check, policy, streamed
from export.families.wan21.job import Job
from export.families.wan21.prompts import calibration_prompts
from export.run.job import CPU_DTYPES


class Blockwise(blockwise.Blockwise):
    """On small, short runs of `WanPipeline`, or one block on noise."""

    job: Job

    @property
    def prompts(self) -> list[str]:
        """What the calibration runs on; none for random weights."""
        return [] if self.job.source.random else calibration_prompts(self.job.settings.variant)[: streamed.PROMPTS]

    @property
    def steps(self) -> int:
        """How many noise levels; all prompts are one batch."""
        return 1 if self.job.source.random else streamed.STEPS

    @property
    def units(self) -> int:
        """Of progress."""
        return self.steps

    @property
    def calibrated(self) -> list[str]:
        """Every layer that some precision quantizes, and every attention that may be in FP8."""
        return [*policy.all_linears(self.job.config), *policy.fp8_attentions(self.job.config)]

    def collect(self, advance: Callable[[float], None]) -> tuple[dict[str, float], Mapping[int, BlockInputs]]:
        """Largest absolute input of each layer, and what the first and the last block were given."""
        job = self.job
        if job.source.random:
            return streamed.calibrate_random(job.source)
        return streamed.calibrate_checkpoint(job.source, job.variant, self.prompts, advance)

    def compare(self, given: Mapping[int, BlockInputs], maxima: dict[str, float], scratch: Path) -> dict[str, float]:
        """How far those blocks on ONNX Runtime are from diffusers'."""
        return block_check.check(self.job.source, given, self.job.build(CPU_DTYPES), maxima, scratch)
