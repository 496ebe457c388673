"""What an export of MAGI-1 has of its own: two graphs in one artifact, and the null caption beside the pipeline."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save

from export.families.magi1 import policy
from export.families.magi1.blockwise import Blockwise
from export.families.magi1.config import CHUNK_FRAMES
from export.families.magi1.graph import TEXT, write_graphs
from export.families.magi1.job import Job
from export.families.magi1.pipeline import SPECIAL_TOKENS
from export.families.magi1.prompts import calibration_prompts
from export.families.magi1.whole import WholePipeline
from export.graph import writing
from export.quantize.linears import Dtypes
from export.run import exporter
from export.run.errors import ExportError
from export.run.exporter import EngineFiles
from export.run.job import Settings
from export.run.progress import Report, Step
from export.run.stages import digest
from videosdgx.artifacts import Calibration, Manifest, TensorSpec
from videosdgx.families.magi1.engine import graphs
from videosdgx.families.magi1.generate import NULL_CAPTION, NULL_CAPTION_FILE

_NULL_CAPTION = "y_embedder.null_caption_embedding"
_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


class Export(exporter.Export):
    """One export of MAGI-1."""

    job: Job
    folders = ("tokenizer", f"{SPECIAL_TOKENS}?")
    cpu_files = (graphs.CHUNK_ONNX, writing.MAIN.data, graphs.TEXT_ONNX, TEXT.data)

    def __init__(self, settings: Settings, report: Report) -> None:
        if settings.fp8_attention or settings.loras:
            raise ExportError("--fp8-attention and --lora are for wan21: magi1 has neither")
        super().__init__(Job(settings, report))

    def engines(self) -> list[EngineFiles]:
        """The chunk's and the text's."""
        chunk, text = self.job.profiles
        return [
            EngineFiles(writing.MAIN.engine, graphs.CHUNK_PLAN, writing.MAIN.data, chunk),
            EngineFiles(TEXT.engine, graphs.TEXT_PLAN, TEXT.data, text),
        ]

    def write(self, directory: Path, dtypes: Dtypes, maxima: Mapping[str, float], step: Step) -> None:
        """Fill a directory with both quantized graphs."""
        write_graphs(directory, self.job.source, self.job.build(dtypes), maxima, step.expect, step.advance)

    def whole(self, root: Path, manifest: Manifest) -> WholePipeline:
        """The demo's stages that look at numbers."""
        return WholePipeline(self.job, root, manifest)

    @cached_property
    def blocks(self) -> Blockwise:
        """Those of a published model."""
        return Blockwise(self.job)

    def inputs_and_outputs(self, dtypes: Dtypes) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """Of the chunk's engine (see `videosdgx.families.magi1.engine.graphs`)."""
        config, dtype = self.job.config, _NAMES[dtypes.compute]
        heads: list[int | str] = [config.num_query_groups, 2 * config.attention_head_dim]
        latent: list[int | str] = [1, config.latent_channels, CHUNK_FRAMES, "height", "width"]
        inputs = [
            TensorSpec(name=graphs.HIDDEN_STATES, dtype="float32", shape=latent),
            TensorSpec(name=graphs.TIMESTEP, dtype="float32", shape=[1]),
            TensorSpec(name=graphs.HAS_TEXT, dtype="bool", shape=[1]),
            TensorSpec(name=graphs.POSITIONS, dtype="float32", shape=["tokens", 3]),
            TensorSpec(name=graphs.TEXT_KV, dtype=dtype, shape=[config.num_layers, "text", *heads]),
        ]
        layers = range(config.num_layers)
        inputs += [TensorSpec(name=graphs.past_input(i), dtype=dtype, shape=["past", *heads]) for i in layers]
        if config.distilled:
            inputs.append(TensorSpec(name=graphs.STEP_SIZE, dtype="float32", shape=[1]))
        outputs = [TensorSpec(name=graphs.VELOCITY, dtype="float32", shape=latent)]
        outputs += [TensorSpec(name=graphs.present_output(i), dtype=dtype, shape=["tokens", *heads]) for i in layers]
        return inputs, outputs

    def policy(self) -> dict[str, str]:
        """Which parts are not in the export's own format, and why."""
        return policy.kept_higher(self.job.config, self.settings.precision, self.job.gpu_dtypes.compute)

    def calibration(self) -> Calibration | None:
        """What the scales were collected on."""
        job = self.job
        if job.is_demo:
            prompts, steps = calibration_prompts(), job.variant.num_inference_steps
        else:
            prompts, steps = self.blocks.prompts, self.blocks.steps
        return Calibration(prompts=len(prompts), steps=steps, sha256=digest({"prompts": prompts}))

    def pipeline_extra(self) -> Mapping[str, bytes]:
        """The network's null caption, which the sampler needs."""
        table = self.job.source.tensors[_NULL_CAPTION].float().contiguous()
        return {f"transformer/{NULL_CAPTION_FILE}": save({NULL_CAPTION: table})}

    def remarks(self) -> list[str]:
        """What a person must know before using the artifact."""
        remarks = super().remarks()
        if self.job.source.content.get("fp8_layers") and not self.job.source.random:
            remarks.append(
                "made from the weights that the official fp8 checkpoint stands for, quantized anew; the scales of inputs are "
                "the official ones but for those of smoothed layers"
            )
        return remarks
