"""Calibrating and verifying a checkpoint that is small enough to make whole clips here: the demo."""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from diffusers import WanPipeline

from export.accuracy import rounded, write_figures
from export.calibrate import input_maxima
from export.job import note
from export.stages import digest
from export.versions import versions
from export.wan21 import policy, verify
from export.wan21.job import REVISION, Job
from export.wan21.pipeline import load_pipeline, make_clips
from export.wan21.prompts import calibration_prompts, verification_prompts
from videosdgx.engines.engine import Engine

OpenEngine = Callable[[Path], Engine]


class WholePipeline:
    """Runs of the real pipeline: scales are collected on them, and clips compared with theirs."""

    def __init__(self, job: Job, root: Path) -> None:
        """`root` is the checkpoint's directory."""
        self.job, self.root = job, root

    @cached_property
    def pipe(self) -> WanPipeline:
        """The real pipeline, unquantized, loaded when a stage first needs it."""
        return self._load()

    def _load(self) -> WanPipeline:
        return load_pipeline(self.root, self.job.variant, self.job.source.tensors)

    def calibrate(self) -> dict[str, float]:
        """Largest absolute input of each quantized layer, from real pipeline runs."""
        job = self.job
        if not job.wanted_maxima:
            return {}
        prompts = calibration_prompts(job.settings.variant)
        layers, attentions = policy.all_linears(job.config), policy.fp8_attentions(job.config)
        facts = {
            "revision": REVISION,
            "checkpoint": job.digests,
            "prompts": prompts,
            "layers": [*layers, *attentions],
        }
        with job.report.step("calibrate", len(prompts)) as step:

            def build(directory: Path) -> None:
                pipe = self._load()
                maxima = input_maxima(
                    pipe.transformer, layers, lambda: _ignore(make_clips(pipe, prompts, job.variant, step.advance)), attentions
                )
                (directory / "maxima.json").write_text(json.dumps(maxima, indent=1))

            directory, known = job.workshop.stage("calibration", facts, build)
            step.note(note(f"{len(prompts)} prompts", known))
        maxima: dict[str, float] = json.loads((directory / "maxima.json").read_bytes())
        return {name: maxima[name] for name in job.wanted_maxima}

    def _reference_facts(self) -> dict[str, object]:
        """What the unquantized pipeline's clips and velocities are made from."""
        return {
            "revision": REVISION,
            "checkpoint": self.job.digests,
            "prompts": verification_prompts(self.job.settings.variant, self.job.settings.clips),
            "versions": versions("torch", "diffusers", "transformers"),
        }

    def verify(self, graph: Path, maxima: dict[str, float], open_engine: OpenEngine) -> dict[str, float]:
        """Accuracy of `graph` on ONNX Runtime against the unquantized pipeline.

        Raises:
            ExportError: a figure is beyond the family's bar.
        """
        job = self.job
        prompts = verification_prompts(job.settings.variant, job.settings.clips)
        with job.report.step("verify", 2 * len(prompts) + 1) as step:

            def build_reference(directory: Path) -> None:
                pipe = self._load()
                pipe.transformer = verify.as_stored(pipe.transformer)
                verify.reference(directory, pipe, prompts, job.variant, step.advance)

            def build(directory: Path) -> None:
                engine = open_engine(graph)
                figures = verify.velocity_snr(engine, reference)
                figures |= verify.against_simulation(
                    graph, self.pipe.transformer, job.formats, maxima, reference, job.fp8_attention
                )
                step.advance()
                figures |= verify.clips(engine, self.pipe, prompts, job.variant, reference, step.advance)
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

    def verify_fp16(self, graph: Path, open_engine: OpenEngine) -> dict[str, float]:
        """Velocities of the graph that is compiled (it computes in fp16), on ONNX Runtime."""
        with self.job.report.step("verify fp16") as step:
            (reference,) = self.job.workshop.root.glob(f"reference-{digest(self._reference_facts())[:16]}")
            figures = verify.velocity_snr(open_engine(graph), reference)
            step.note(", ".join(f"{value:.1f}" for value in figures.values()) + " dB at falling sigma")
        return rounded({name.replace("_snr", "_fp16_snr"): value for name, value in figures.items()})


def _ignore(_: object) -> None:
    """Drop a result."""
