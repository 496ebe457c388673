"""The real pipeline around a transformer, diffusers' own or an engine: for calibration and for whole clips."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from export.checkpoint import reading
from export.run.errors import ExportError
from videosdgx.families.spec import Variant
from videosdgx.families.wan21.few_step import build_scheduler, share_generator

_BATCH = 10  # clips made together on a CPU: larger matrices use it better


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
        text_encoder=UMT5EncoderModel.from_pretrained(directory / "text_encoder", dtype=torch.float32),
        vae=AutoencoderKLWan.from_pretrained(directory / "vae", low_cpu_mem_usage=False),
        scheduler=scheduler,
        transformer=load_transformer(directory / "transformer", tensors),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_clips(pipe: WanPipeline, prompts: list[str], variant: Variant, advance: Callable[[float], None]) -> np.ndarray:
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
def recorded(transformer: nn.Module, calls: list[tuple[dict[str, np.ndarray], np.ndarray]]) -> Iterator[None]:
    """While open, append (inputs, velocity) of every call of `transformer` to `calls`, as fp32 arrays."""

    def record(_: nn.Module, __: tuple[()], given: dict[str, Any], output: tuple[Tensor]) -> None:
        names = ("hidden_states", "timestep", "encoder_hidden_states")
        calls.append(({name: given[name].float().numpy().copy() for name in names}, output[0].numpy().copy()))

    handle = transformer.register_forward_hook(record, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
