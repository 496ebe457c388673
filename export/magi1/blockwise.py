"""Calibrating and verifying a checkpoint that is too large to hold: layers are read as they run, single blocks compared."""

import json
import tempfile
from functools import cached_property
from pathlib import Path

import numpy as np

from export.accuracy import write_figures
from export.job import CPU_DTYPES, note
from export.magi1 import block_check, policy, streamed
from export.magi1.job import Job
from export.magi1.streamed import BlockInputs
from export.stages import digest
from export.versions import versions
from export.wan21.prompts import GENERAL

_MAXIMA, _INPUTS = "maxima.json", "blocks.npz"
_PROMPTS = 2


class Blockwise:
    """The stages of a full-size export that look at the checkpoint's numbers."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @property
    def prompts(self) -> list[str]:
        """What the calibration runs on; none for random weights."""
        return [] if self.job.source.random else list(GENERAL[:_PROMPTS])

    @cached_property
    def _calibration(self) -> Path:
        """The directory with the maxima and the recorded inputs of blocks."""
        job = self.job
        layers = policy.all_linears(job.config)
        facts = {"revision": job.revision, "checkpoint": job.digests, "prompts": self.prompts, "layers": layers}

        def build(directory: Path) -> None:
            if job.source.random:
                maxima, seen = streamed.calibrate_random(job.source)
            else:
                maxima, seen = streamed.calibrate_checkpoint(job.source, self.prompts, step.advance)
            (directory / _MAXIMA).write_text(json.dumps(maxima, indent=1))
            arrays = {f"{index}.{name}": array for index, given in seen.items() for name, array in given.items()}
            np.savez(directory / _INPUTS, **arrays)

        with job.report.step("calibrate", max(1, len(self.prompts))) as step:
            directory, known = job.workshop.stage("calibration", facts, build)
            what = f"{len(self.prompts)} prompts" if self.prompts else "seeded noise"
            step.note(note(what, known))
        return directory

    def calibrate(self) -> dict[str, float]:
        """Largest absolute input of each quantized layer; what a checkpoint was calibrated for stands above our few runs."""
        maxima: dict[str, float] = json.loads((self._calibration / _MAXIMA).read_bytes())
        maxima |= self.job.source.static_maxima
        return {name: maxima[name] for name in self.job.wanted_maxima}

    def verify(self, maxima: dict[str, float]) -> dict[str, float]:
        """Accuracy of the first and the last block, and of one between, on ONNX Runtime against the model's.

        Raises:
            ExportError: a figure is beyond the family's bar.
        """
        job = self.job
        calibration = self._calibration
        facts = {
            "revision": job.revision,
            "calibration": calibration.name,
            "formats": digest({"formats": job.formats}),
            "versions": versions("onnxruntime", "diffusers", "torch", "onnx", "onnxscript"),
        }

        def build(directory: Path) -> None:
            given: dict[int, BlockInputs] = {}
            with np.load(calibration / _INPUTS) as arrays:
                for name in arrays.files:
                    index, part = name.split(".", 1)
                    given.setdefault(int(index), {})[part] = arrays[name]
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                figures = block_check.check(job.source, given, job.build(CPU_DTYPES), maxima, Path(scratch))
            write_figures(directory / "accuracy.json", figures)

        with job.report.step("verify") as step:
            directory, known = job.workshop.stage("blocks", facts, build)
            accuracy: dict[str, float] = json.loads((directory / "accuracy.json").read_bytes())
            blocks, cosine = accuracy["blocks_checked"], accuracy["block_cosine"]
            change = accuracy["block_change_snr_db"]
            step.note(note(f"{blocks:.0f} full-width blocks, cosine {cosine:.5f}, change {change:.1f} dB", known))
        job.require(accuracy)
        return accuracy
