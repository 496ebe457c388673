"""Calibrating and verifying a checkpoint that is small enough to make whole clips here: the demo."""

import json
from functools import cached_property
from pathlib import Path

from export.accuracy import rounded, write_figures
from export.calibrate import input_maxima
from export.job import note
from export.magi1 import policy, verify
from export.magi1.job import Job
from export.magi1.pipeline import load_pipeline, make_clips
from export.magi1.prompts import calibration_prompts, verification_prompts
from export.stages import digest
from export.versions import versions
from videosdgx.artifacts import Manifest
from videosdgx.families.magi1.pipeline import MagiPipeline


class WholePipeline:
    """Runs of the real pipeline: scales are collected on them, and clips compared with theirs."""

    def __init__(self, job: Job, root: Path) -> None:
        """`root` is the checkpoint's directory."""
        self.job, self.root = job, root

    @cached_property
    def pipe(self) -> MagiPipeline:
        """The real pipeline, unquantized, loaded when a stage first needs it."""
        return self._load()

    def _load(self) -> MagiPipeline:
        return load_pipeline(self.root, self.job.source.tensors)

    def calibrate(self) -> dict[str, float]:
        """Largest absolute input of each quantized layer, from real pipeline runs."""
        job = self.job
        if not job.wanted_maxima:
            return {}
        prompts, layers = calibration_prompts(), policy.all_linears(job.config)
        facts = {"revision": job.revision, "checkpoint": job.digests, "prompts": prompts, "layers": layers}
        with job.report.step("calibrate", len(prompts)) as step:

            def build(directory: Path) -> None:
                pipe = self._load()

                def run() -> None:
                    make_clips(pipe, prompts, job.variant, step.advance)

                (directory / "maxima.json").write_text(json.dumps(input_maxima(pipe.transformer, layers, run), indent=1))

            directory, known = job.workshop.stage("calibration", facts, build)
            step.note(note(f"{len(prompts)} prompts", known))
        maxima: dict[str, float] = json.loads((directory / "maxima.json").read_bytes())
        return {name: maxima[name] for name in job.wanted_maxima}

    def _reference_facts(self) -> dict[str, object]:
        """What the unquantized pipeline's clips and tensors are made from."""
        return {
            "revision": self.job.revision,
            "checkpoint": self.job.digests,
            "prompts": verification_prompts(self.job.settings.clips),
            "versions": versions("torch", "diffusers", "transformers"),
        }

    def verify(self, graph: Path, maxima: dict[str, float], manifest: Manifest) -> dict[str, float]:
        """Accuracy of `graph` on ONNX Runtime against the unquantized pipeline; `manifest` says what goes in and out.

        Raises:
            ExportError: a figure is beyond the family's bar.
        """
        job = self.job
        prompts = verification_prompts(job.settings.clips)
        with job.report.step("verify", 2 * len(prompts) + 1) as step:

            def build_reference(directory: Path) -> None:
                pipe = self._load()
                pipe.register_modules(transformer=verify.as_stored(pipe.transformer))
                verify.reference(directory, pipe, prompts, job.variant, step.advance)

            def build(directory: Path) -> None:
                figures = verify.fixed_snr(graph, reference, job.threads)
                figures |= verify.against_simulation(graph, self.pipe.transformer, job.formats, maxima, reference)
                step.advance()
                where = (job.variant, reference, job.threads)
                figures |= verify.clips(graph, manifest, self.pipe, prompts, *where, step.advance)
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
        """Velocities of the graph that is compiled (it computes in fp16), on ONNX Runtime."""
        with self.job.report.step("verify fp16") as step:
            (reference,) = self.job.workshop.root.glob(f"reference-{digest(self._reference_facts())[:16]}")
            figures = verify.fixed_snr(graph, reference, self.job.threads)
            step.note(", ".join(f"{value:.1f}" for value in figures.values()) + " dB")
        return rounded({name.replace("_snr", "_fp16_snr"): value for name, value in figures.items()})
