"""What the export of MAGI-1's transformer has of its own: two graphs in one artifact, a null caption beside the pipeline."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from export.families.magi1 import official, pipeline, policy, prompts, streamed
from export.families.magi1.config import CHUNK_FRAMES, MagiConfig
from export.families.magi1.graph import TEXT, block_piece, write_graphs
from export.families.magi1.profiles import chunk_profiles, text_profiles
from export.families.magi1.stored_network import NETWORK, known_maxima
from export.graph import writing
from export.quantize.linears import Dtypes
from export.run.job import Job
from export.run.progress import Step
from export.run.recipe import Blocks, EngineFiles, Policy, Recipe, WholeClips
from videosdgx.artifacts import TensorSpec
from videosdgx.families.magi1.engine import graphs
from videosdgx.families.magi1.generate import NULL_CAPTION, NULL_CAPTION_FILE
from videosdgx.families.magi1.spec import SPEC

_NULL_CAPTION = "y_embedder.null_caption_embedding"
_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def _engines(job: Job) -> list[EngineFiles]:
    """The chunk's and the text's."""
    item = job.shipped_dtypes.compute.itemsize
    chunk = chunk_profiles(job.config, job.variant, job.settings.resolutions, item)
    return [
        EngineFiles(writing.MAIN, graphs.CHUNK_PLAN, chunk),
        EngineFiles(TEXT, graphs.TEXT_PLAN, text_profiles(job.config)),
    ]


def _write(directory: Path, job: Job, dtypes: Dtypes, maxima: Mapping[str, float], step: Step) -> None:
    write_graphs(directory, job.source, job.build(dtypes), maxima, step.expect, step.advance)


def _inputs_and_outputs(job: Job, dtypes: Dtypes) -> tuple[list[TensorSpec], list[TensorSpec]]:
    """Of the chunk's engine (see `videosdgx.families.magi1.engine.graphs`)."""
    config: MagiConfig = job.config
    dtype = _NAMES[dtypes.compute]
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


def _null_caption(job: Job) -> Mapping[str, bytes]:
    """The network's null caption, which the sampler needs."""
    table = job.source.tensors[_NULL_CAPTION].float().contiguous()
    return {f"transformer/{NULL_CAPTION_FILE}": save({NULL_CAPTION: table})}


def _remarks(job: Job) -> list[str]:
    if not job.source.content.get("fp8_layers") or job.source.random:
        return []
    return [
        "made from the weights that the official fp8 checkpoint stands for, quantized anew; the scales of inputs are "
        "the official ones but for those of smoothed layers"
    ]


TRANSFORMER = Recipe(
    spec=SPEC,
    component="transformer",
    revision=2,
    network=NETWORK,
    policy=Policy(
        linears=policy.all_linears,
        formats=policy.formats,
        kept_higher=policy.kept_higher,
        bars=policy.bars,
    ),
    engines=_engines,
    write=_write,
    inputs_and_outputs=_inputs_and_outputs,
    remarks=_remarks,
    locate=official.resolve,
    folders=("tokenizer", f"{pipeline.SPECIAL_TOKENS}?"),
    pipeline_files=_null_caption,
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
        points="chunks with others before them at the times " + ", ".join(f"{time:g}" for time in pipeline.TIMES),
        split=policy.split,
    ),
    blocks=Blocks(
        prompts=prompts.PUBLISHED_CALIBRATION,
        steps=streamed.STEPS,
        ticks=len(prompts.PUBLISHED_CALIBRATION),
        random_steps=len(streamed.TIMES),
        random_blocks=3,  # the first has next to no residual stream to add to, so it tells nothing of the others
        checked=lambda count: sorted({0, (count - 1) // 2, count - 1}),
        streamed=streamed.streamed_transformer,
        layers=lambda model: list(model.layers),  # type: ignore[arg-type]
        given=streamed.given,
        run_noise=streamed.run_noise,
        run_prompts=streamed.run_prompts,
        block=streamed.block,
        run_block=streamed.run_block,
        piece=block_piece,
        known_maxima=known_maxima,
    ),
)

RECIPES = {recipe.component: recipe for recipe in (TRANSFORMER,)}
