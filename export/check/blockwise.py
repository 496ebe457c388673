"""Calibrating and verifying a checkpoint that is too large to hold: layers are read as they run, single blocks compared."""

import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from export.check.accuracy import write_figures
from export.run.job import Job, note
from export.run.stages import digest
from export.run.versions import versions

_MAXIMA, _INPUTS = "maxima.json", "blocks.npz"
BlockInputs = dict[str, np.ndarray]  # by the names that a family gives them


class Blockwise(ABC):
    """The stages of a full-size export that look at the checkpoint's numbers."""

    def __init__(self, job: Job) -> None:
        self.job = job

    @property
    @abstractmethod
    def prompts(self) -> list[str]:
        """What the calibration runs on; none for random weights."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many forwards the calibration makes of a prompt."""

    @property
    @abstractmethod
    def units(self) -> int:
        """How often `collect` tells its progress."""

    @property
    @abstractmethod
    def calibrated(self) -> list[str]:
        """Every layer that some precision quantizes, and every attention that may be in FP8."""

    @abstractmethod
    def collect(self, advance: Callable[[float], None]) -> tuple[dict[str, float], Mapping[int, BlockInputs]]:
        """Largest absolute input of each layer, and what some blocks were given."""

    @abstractmethod
    def compare(self, given: Mapping[int, BlockInputs], maxima: dict[str, float], scratch: Path) -> dict[str, float]:
        """How far those blocks on ONNX Runtime are from the model's own."""

    def known_maxima(self) -> Mapping[str, float]:
        """What the checkpoint itself was calibrated for, which stands above our few runs."""
        return {}

    @cached_property
    def _calibration(self) -> Path:
        """The directory with the maxima and the recorded inputs of blocks."""
        job = self.job
        facts = {"revision": job.revision, "checkpoint": job.digests, "prompts": self.prompts, "layers": self.calibrated}

        def build(directory: Path) -> None:
            maxima, seen = self.collect(step.advance)
            (directory / _MAXIMA).write_text(json.dumps(maxima, indent=1))
            arrays: dict[str, Any] = {f"{index}.{name}": array for index, one in seen.items() for name, array in one.items()}
            np.savez(directory / _INPUTS, **arrays)

        with job.report.step("calibrate", self.units) as step:
            directory, known = job.workshop.stage("calibration", facts, build)
            what = f"{len(self.prompts)} prompts, {self.steps} steps" if self.prompts else "seeded noise"
            step.note(note(what, known))
        return directory

    def calibrate(self) -> dict[str, float]:
        """Largest absolute input of each quantized layer."""
        maxima: dict[str, float] = json.loads((self._calibration / _MAXIMA).read_bytes())
        maxima |= self.known_maxima()
        return {name: maxima[name] for name in self.job.wanted_maxima}

    def _block_inputs(self) -> dict[int, BlockInputs]:
        given: dict[int, BlockInputs] = {}
        with np.load(self._calibration / _INPUTS) as arrays:
            for name in arrays.files:
                index, part = name.split(".", 1)
                given.setdefault(int(index), {})[part] = arrays[name]
        return given

    def verify(self, maxima: dict[str, float]) -> dict[str, float]:
        """Accuracy of some full-width blocks on ONNX Runtime against the model's with the same weights.

        Raises:
            ExportError: a figure is beyond the family's bar.
        """
        job = self.job
        facts = {
            "revision": job.revision,
            "calibration": self._calibration.name,
            "formats": digest({"formats": job.formats, "fp8_attention": job.fp8_attention}),
            "versions": versions("onnxruntime", "diffusers", "torch", "onnx", "onnxscript"),
        }

        def build(directory: Path) -> None:
            with tempfile.TemporaryDirectory(dir=directory) as scratch:
                figures = self.compare(self._block_inputs(), maxima, Path(scratch))
            write_figures(directory / "accuracy.json", figures)

        with job.report.step("verify") as step:
            directory, known = job.workshop.stage("blocks", facts, build)
            accuracy: dict[str, float] = json.loads((directory / "accuracy.json").read_bytes())
            blocks, cosine = accuracy["blocks_checked"], accuracy["block_cosine"]
            change = accuracy["block_change_snr_db"]
            step.note(note(f"{blocks:.0f} full-width blocks, cosine {cosine:.5f}, change {change:.1f} dB", known))
        job.require(accuracy)
        return accuracy
