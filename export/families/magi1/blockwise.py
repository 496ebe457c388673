"""MAGI-1's layers one at a time, for calibrating and verifying a full-size checkpoint."""

from collections.abc import Callable, Mapping
from pathlib import Path

from export.check import blockwise
from export.check.blockwise import BlockInputs
from export.families.magi1 import block_check, policy, streamed
from export.families.magi1.job import Job
from export.families.wan21.prompts import GENERAL
from export.run.job import CPU_DTYPES

_PROMPTS = 2


class Blockwise(blockwise.Blockwise):
    """On small, short runs of `MagiPipeline`, or a few layers on noise."""

    job: Job

    @property
    def prompts(self) -> list[str]:
        """What the calibration runs on; none for random weights."""
        return [] if self.job.source.random else list(GENERAL[:_PROMPTS])

    @property
    def steps(self) -> int:
        """How many noise levels."""
        return len(streamed.TIMES) if self.job.source.random else streamed.STEPS

    @property
    def units(self) -> int:
        """Of progress: clips."""
        return max(1, len(self.prompts))

    @property
    def calibrated(self) -> list[str]:
        """Every layer that some precision quantizes."""
        return policy.all_linears(self.job.config)

    def collect(self, advance: Callable[[float], None]) -> tuple[dict[str, float], Mapping[int, BlockInputs]]:
        """Largest absolute input of each layer, and what a first, a middle and a last block were given."""
        source = self.job.source
        if source.random:
            return streamed.calibrate_random(source)
        return streamed.calibrate_checkpoint(source, self.prompts, advance)

    def compare(self, given: Mapping[int, BlockInputs], maxima: dict[str, float], scratch: Path) -> dict[str, float]:
        """How far those blocks on ONNX Runtime are from the model's own."""
        return block_check.check(self.job.source, given, self.job.build(CPU_DTYPES), maxima, scratch)

    def known_maxima(self) -> Mapping[str, float]:
        """What an official fp8 checkpoint was calibrated for."""
        return self.job.source.static_maxima
