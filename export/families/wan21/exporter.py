"""What an export of Wan 2.1 has of its own."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from export.families.wan21 import policy
from export.families.wan21.blockwise import Blockwise
from export.families.wan21.graph import write_graph
from export.families.wan21.job import Job
from export.families.wan21.lowered import TEXT_LENGTH
from export.families.wan21.profiles import IMAGE_TOKENS, profiles
from export.families.wan21.prompts import calibration_prompts
from export.families.wan21.whole import WholePipeline
from export.graph import writing
from export.quantize.linears import Dtypes
from export.run import exporter
from export.run.exporter import EngineFiles
from export.run.job import Settings
from export.run.progress import Report, Step
from export.run.stages import digest
from videosdgx.artifacts import Calibration, Manifest, TensorSpec

PLAN = "engine.plan"


class Export(exporter.Export):
    """One export of Wan 2.1."""

    job: Job
    folders = ("scheduler", "tokenizer")
    cpu_files = (writing.MAIN.model, writing.MAIN.data)

    def __init__(self, settings: Settings, report: Report) -> None:
        super().__init__(Job(settings, report))

    def engines(self) -> list[EngineFiles]:
        """The transformer."""
        job, settings = self.job, self.settings
        shapes = profiles(job.config, job.variant, settings.resolutions, settings.frames)
        return [EngineFiles(writing.MAIN.engine, PLAN, writing.MAIN.data, shapes)]

    def write(self, directory: Path, dtypes: Dtypes, maxima: Mapping[str, float], step: Step) -> None:
        """Fill a directory with the quantized ONNX."""
        write_graph(directory, self.job.source, self.job.build(dtypes), maxima, step.expect, step.advance)

    def whole(self, root: Path, manifest: Manifest) -> WholePipeline:
        """The demo's stages that look at numbers."""
        return WholePipeline(self.job, root, manifest)

    @cached_property
    def blocks(self) -> Blockwise:
        """Those of a published model."""
        return Blockwise(self.job)

    def inputs_and_outputs(self, dtypes: Dtypes) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """Everything in and out is fp32."""
        config = self.job.config
        latent: list[int | str] = ["batch", config.in_channels, "frames", "height", "width"]
        result: list[int | str] = ["batch", config.out_channels, "frames", "height", "width"]
        inputs = [
            TensorSpec(name="hidden_states", dtype="float32", shape=latent),
            TensorSpec(name="timestep", dtype="float32", shape=["batch"]),
            TensorSpec(name="encoder_hidden_states", dtype="float32", shape=["batch", TEXT_LENGTH, config.text_dim]),
        ]
        if config.image_dim is not None:
            image: list[int | str] = ["batch", IMAGE_TOKENS, config.image_dim]
            inputs.append(TensorSpec(name="encoder_hidden_states_image", dtype="float32", shape=image))
        return inputs, [TensorSpec(name="sample", dtype="float32", shape=result)]

    def policy(self) -> dict[str, str]:
        """Which parts are not in the export's own format, and why."""
        job = self.job
        kept = policy.kept_higher(job.config, self.settings.precision, job.gpu_dtypes.compute)
        return kept | policy.attention(job.fp8_attention)

    def calibration(self) -> Calibration | None:
        """What the scales were collected on."""
        job = self.job
        if job.is_demo:
            prompts, steps = calibration_prompts("demo"), job.variant.num_inference_steps
        else:
            prompts, steps = self.blocks.prompts, self.blocks.steps
        return Calibration(prompts=len(prompts), steps=steps, sha256=digest({"prompts": prompts}))
