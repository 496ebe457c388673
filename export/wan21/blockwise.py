"""Calibrating and verifying a checkpoint that is too large to hold: layers are read as they run, single blocks compared."""

import json
import tempfile
from functools import cached_property
from pathlib import Path

import numpy as np

from export.accuracy import write_figures
from export.job import CPU_DTYPES, note
from export.stages import digest
from export.versions import versions
from export.wan21 import block_check, policy, streamed
from export.wan21.job import REVISION, Job
from export.wan21.prompts import calibration_prompts
from export.wan21.streamed import BlockInputs

_MAXIMA, _INPUTS = "maxima.json", "blocks.npz"


class Blockwise:
    """The stages of a full-size export that look at the checkpoint's numbers."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @property
    def prompts(self) -> list[str]:
        """What the calibration runs on; none for random weights."""
        return [] if self.job.source.random else calibration_prompts(self.job.settings.variant)[: streamed.PROMPTS]

    @cached_property
    def _calibration(self) -> Path:
        """The directory with the maxima and the recorded inputs of blocks."""
        job = self.job
        layers = [*policy.all_linears(job.config), *policy.fp8_attentions(job.config)]
        facts = {"revision": REVISION, "checkpoint": job.digests, "prompts": self.prompts, "layers": layers}

        def build(directory: Path) -> None:
            if job.source.random:
                maxima, seen = streamed.calibrate_random(job.source)
            else:
                maxima, seen = streamed.calibrate_checkpoint(job.source, job.variant, self.prompts, step.advance)
            (directory / _MAXIMA).write_text(json.dumps(maxima, indent=1))
            arrays = {f"{index}.{name}": array for index, given in seen.items() for name, array in given.items()}
            np.savez(directory / _INPUTS, **arrays)

        with job.report.step("calibrate", streamed.STEPS) as step:
            directory, known = job.workshop.stage("calibration", facts, build)
            what = f"{len(self.prompts)} prompts, {streamed.STEPS} steps" if self.prompts else "one block on seeded noise"
            step.note(note(what, known))
        return directory

    def calibrate(self) -> dict[str, float]:
        """Largest absolute input of each quantized layer."""
        maxima: dict[str, float] = json.loads((self._calibration / _MAXIMA).read_bytes())
        return {name: maxima[name] for name in self.job.wanted_maxima}

    def _block_inputs(self, directory: Path) -> dict[int, BlockInputs]:
        given: dict[int, BlockInputs] = {}
        with np.load(directory / _INPUTS) as arrays:
            for name in arrays.files:
                index, part = name.split(".", 1)
                given.setdefault(int(index), {})[part] = arrays[name]
        return given

    def verify(self, maxima: dict[str, float]) -> dict[str, float]:
        """Accuracy of the first and the last block on ONNX Runtime against diffusers' with the same weights.

        Raises:
            ExportError: a figure is beyond the family's bar.
        """
        job = self.job
        calibration = self._calibration
        facts = {
            "revision": REVISION,
            "calibration": calibration.name,
            "formats": digest({"formats": job.formats, "fp8_attention": job.fp8_attention}),
            "versions": versions("onnxruntime", "diffusers", "torch", "onnx", "onnxscript"),
        }

        def build(directory: Path) -> None:
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                given = self._block_inputs(calibration)
                figures = block_check.check(job.source, given, job.build(CPU_DTYPES), maxima, Path(scratch))
            write_figures(directory / "accuracy.json", figures)

        with job.report.step("verify") as step:
            directory, known = job.workshop.stage("blocks", facts, build)
            accuracy: dict[str, float] = json.loads((directory / "accuracy.json").read_bytes())
            step.note(
                note(
                    f"{accuracy['blocks_checked']:.0f} full-width blocks, cosine {accuracy['block_cosine']:.5f}, "
                    f"change {accuracy['block_change_snr_db']:.1f} dB",
                    known,
                )
            )
        job.require(accuracy)
        return accuracy
