"""The real pipeline around a transformer, diffusers' own or an engine: for calibration and for whole clips."""

import contextlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from export.checkpoint import reading
from export.graph.writing import MAIN
from export.run.errors import ExportError
from export.run.recipe import Advance, Arrays, FixedCall, Velocity
from videosdgx.artifacts import Manifest
from videosdgx.engines.onnxruntime_engine import OnnxRuntimeEngine
from videosdgx.families.spec import Variant
from videosdgx.families.wan21.few_step import build_scheduler, share_generator
from videosdgx.families.wan21.pipeline import RemoteTransformer

SIGMAS = (0.95, 0.75, 0.5, 0.25)  # noise levels at which velocities are compared; with few steps all of them
_BATCH = 10  # clips made together on a CPU: larger matrices use it better
_INPUTS = ("hidden_states", "timestep", "encoder_hidden_states")


def load_transformer(directory: Path, tensors: Mapping[str, Tensor] | None = None) -> WanTransformer3DModel:
    """diffusers' transformer in fp32, read without `accelerate`; `tensors` stand for the files' if they were changed."""
    model = WanTransformer3DModel.from_config(reading.config(directory))
    try:
        model.load_state_dict(dict(tensors or reading.Tensors(directory)))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ExportError(f"the weights in {directory} do not fit its config.json: {reason}") from None
    return model.float().eval()


def load_pipeline(directory: Path, variant: Variant, tensors: Mapping[str, Tensor] | None = None) -> WanPipeline:
    """The whole pipeline of a checkpoint in fp32 on the CPU, silent; `tensors` are the transformer's, if changed."""
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    scheduler = build_scheduler(directory / "scheduler", variant.sampler, variant.flow_shift)
    pipe = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(directory / "tokenizer"),
        text_encoder=reading.text_encoder(UMT5EncoderModel, directory / "text_encoder"),
        vae=AutoencoderKLWan.from_pretrained(directory / "vae", low_cpu_mem_usage=False),
        scheduler=scheduler,
        transformer=load_transformer(directory / "transformer", tensors),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_clips(pipe: WanPipeline, prompts: list[str], variant: Variant, advance: Advance) -> np.ndarray:
    """One clip for each prompt with the variant's settings, fp32 0..1 [n, F, H, W, 3]; prompt i has seed i.

    `advance` is told the number of clips done.
    """
    made = []
    for first in range(0, len(prompts), _BATCH):
        part = prompts[first : first + _BATCH]
        generators = [torch.Generator().manual_seed(first + index) for index in range(len(part))]
        share_generator(pipe.scheduler, generators)
        result = pipe(
            part,
            negative_prompt=[variant.negative_prompt] * len(part),
            height=variant.height,
            width=variant.width,
            num_frames=variant.num_frames,
            num_inference_steps=variant.num_inference_steps,
            guidance_scale=variant.guidance_scale,
            generator=generators,
        )
        made.append(np.asarray(result.frames, dtype=np.float32))
        advance(len(part))
    return np.concatenate(made)


@contextlib.contextmanager
def recorded(transformer: nn.Module, calls: list[tuple[Arrays, np.ndarray]]) -> Iterator[None]:
    """While open, append (inputs, velocity) of every call of `transformer` to `calls`, as fp32 arrays."""

    def record(_: nn.Module, __: tuple[()], given: dict[str, Any], output: tuple[Tensor]) -> None:
        calls.append(({name: given[name].float().numpy().copy() for name in _INPUTS}, output[0].numpy().copy()))

    handle = transformer.register_forward_hook(record, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def calls_at_sigmas(
    pipe: WanPipeline, prompts: list[str], variant: Variant
) -> tuple[list[tuple[Arrays, np.ndarray]], np.ndarray]:
    """(inputs, velocity) of the pipeline's transformer at each of `SIGMAS`, for all prompts at once; and the clips.

    A clip that is made in a few steps has a call for each of them.
    """
    calls: list[tuple[Arrays, np.ndarray]] = []
    with recorded(pipe.transformer, calls):
        clips = make_clips(pipe, prompts, variant, lambda _: None)
    if variant.sampler != "unipc":
        return calls, clips
    return [min(calls, key=lambda call: abs(float(call[0]["timestep"][0]) - 1000 * sigma)) for sigma in SIGMAS], clips


def fixed_calls(pipe: WanPipeline, prompts: list[str], variant: Variant) -> tuple[list[FixedCall], np.ndarray]:
    """The calls at `SIGMAS`, and the clips."""
    calls, clips = calls_at_sigmas(pipe, prompts, variant)
    few = [round(float(inputs["timestep"][0]) / 1000, 4) for inputs, _ in calls]
    sigmas = SIGMAS if variant.sampler == "unipc" else few
    found = [
        FixedCall(f"velocity_snr_db_sigma_{sigma:g}", MAIN, inputs, velocity)
        for sigma, (inputs, velocity) in zip(sigmas, calls, strict=True)
    ]
    return found, clips


def forward(model: nn.Module, inputs: Arrays) -> Tensor:
    """The velocity of a transformer for the inputs of its graph."""
    velocity: Tensor = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}, return_dict=False)[0]
    return velocity


def velocities(pipe: WanPipeline, prompts: list[str], variant: Variant) -> list[Velocity]:
    """At each of `SIGMAS`, for all prompts at once."""

    def run(inputs: Arrays, model: nn.Module) -> np.ndarray:
        made: np.ndarray = forward(model, inputs).numpy()
        return made

    calls, _ = calls_at_sigmas(pipe, prompts, variant)
    return [Velocity(partial(run, inputs), velocity) for inputs, velocity in calls]


def in_half(name: str, layer: nn.Module) -> bool:
    """Whether an engine stores a layer's weight in fp16 where it is not quantized."""
    return isinstance(layer, nn.Linear | nn.Conv3d) and "time_embedder" not in name


@contextlib.contextmanager
def by_engine(pipe: WanPipeline, graph: Path, manifest: Manifest, threads: int) -> Iterator[None]:
    """Inside, the graph in the folder `graph` on ONNX Runtime stands for the pipeline's transformer, as in serving."""
    own = pipe.transformer
    engine = OnnxRuntimeEngine(graph, manifest, threads)
    pipe.register_modules(transformer=RemoteTransformer(engine.run, SimpleNamespace(**dict(own.config))))
    try:
        yield
    finally:
        pipe.register_modules(transformer=own)
        engine.close()
