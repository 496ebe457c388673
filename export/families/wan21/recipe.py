"""What the exports of Wan 2.1's engines have of their own: the transformer's, and the video decoder's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from export.checkpoint.source import Network
from export.families.wan21 import pipeline, policy, prompts, streamed
from export.families.wan21.graph import block_piece, write_graph
from export.families.wan21.lora import original_name
from export.families.wan21.lowered import TEXT_LENGTH, WanConfig
from export.families.wan21.profiles import IMAGE_TOKENS, profiles
from export.families.wan21.vae_recipe import VAE
from export.graph import writing
from export.quantize.linears import Dtypes
from export.run.job import Job
from export.run.progress import Step
from export.run.recipe import Blocks, EngineFiles, Policy, Recipe, WholeClips
from videosdgx.artifacts import TensorSpec
from videosdgx.families.wan21.architectures import TRANSFORMERS
from videosdgx.families.wan21.few_step import SHIFT
from videosdgx.families.wan21.spec import SPEC

PLAN = "engine.plan"


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of diffusers' transformer with this config.json."""
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(dict(config))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


NETWORK = Network(
    config=WanConfig.from_dict,
    shapes=shapes,
    published=TRANSFORMERS.__getitem__,
    block="blocks.{}",
    original_name=original_name,
)


def _engines(job: Job) -> list[EngineFiles]:
    ranges = profiles(job.config, job.variant, job.settings.resolutions, job.settings.frames)
    return [EngineFiles(writing.MAIN, PLAN, ranges)]


def _write(directory: Path, job: Job, dtypes: Dtypes, maxima: Mapping[str, float], step: Step) -> None:
    write_graph(directory, job.source, job.build(dtypes), maxima, step.expect, step.advance)


def _inputs_and_outputs(job: Job, _: Dtypes) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Everything in and out is fp32."""
    config: WanConfig = job.config
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


TRANSFORMER = Recipe(
    spec=SPEC,
    component="transformer",
    revision=3,
    network=NETWORK,
    policy=Policy(
        linears=policy.all_linears,
        formats=policy.formats,
        kept_higher=policy.kept_higher,
        bars=policy.bars,
        fp8_attentions=policy.fp8_attentions,
    ),
    engines=_engines,
    write=_write,
    inputs_and_outputs=_inputs_and_outputs,
    folders=("scheduler", "tokenizer"),
    few_step_shift=SHIFT,
    whole=WholeClips(
        calibration_prompts=prompts.calibration_prompts,
        verification_prompts=prompts.verification_prompts,
        load=pipeline.load_pipeline,
        make_clips=pipeline.make_clips,
        fixed_calls=pipeline.fixed_calls,
        in_half=pipeline.in_half,
        forward=pipeline.forward,
        by_engine=pipeline.by_engine,
        velocities=pipeline.velocities,
        points="the noise levels " + ", ".join(f"{sigma:g}" for sigma in pipeline.SIGMAS),
        split=policy.split,
        success=prompts.success,
    ),
    blocks=Blocks(
        prompts=prompts.GENERAL[: streamed.PROMPTS],
        steps=streamed.STEPS,
        ticks=streamed.STEPS,
        random_steps=1,
        random_blocks=1,
        checked=lambda count: sorted({0, count - 1}),
        streamed=streamed.streamed_transformer,
        layers=lambda model: list(model.blocks),  # type: ignore[arg-type]
        given=streamed.given,
        run_noise=streamed.run_noise,
        run_prompts=streamed.run_prompts,
        block=streamed.block,
        run_block=streamed.run_block,
        piece=block_piece,
    ),
)

RECIPES = {recipe.component: recipe for recipe in (TRANSFORMER, VAE)}
