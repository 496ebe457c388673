"""Calibrating a transformer that does not fit in memory: its layers are read from the source as they run.

The demo is small enough to run its real pipeline; a published checkpoint is not, on the machines where engines are
compiled. Here `accelerate` puts each layer's weights in place just before the layer runs and drops them after it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from export.check.blockwise import BlockInputs
from export.checkpoint import reading
from export.checkpoint.hooks import StreamedWeights, streamed
from export.families.wan21 import policy
from export.families.wan21.lowered import TEXT_LENGTH
from export.families.wan21.profiles import IMAGE_TOKENS
from export.families.wan21.source import Source
from export.quantize.calibration import input_maxima
from videosdgx.families.spec import Variant

# Small enough for a CPU: the layers' inputs are normalised, so their range hardly depends on how many tokens there are.
WIDTH, HEIGHT, FRAMES = 224, 128, 5
PROMPTS, STEPS = 4, 4
# What random weights see: two latents of 3 x 16 x 24, one noisy and one less so.
_RANDOM_LATENT = (3, 16, 24)
_RANDOM_TIMESTEPS = (900.0, 400.0)


def streamed_transformer(source: Source) -> WanTransformer3DModel:
    """diffusers' transformer in fp32 that holds one layer at a time."""
    with init_empty_weights():
        model = WanTransformer3DModel.from_config(source.content | {"num_layers": source.config.num_layers})
    streamed(model.eval(), StreamedWeights(source.tensors))
    return model


def _streamed_text_encoder(directory: Path) -> UMT5EncoderModel:
    transformers_logging.disable_progress_bar()
    config = UMT5EncoderModel.config_class.from_pretrained(directory)
    with init_empty_weights():
        model = UMT5EncoderModel(config)
    # The files name the one embedding `shared`; the encoder has it under a second name too.
    streamed(model.eval(), StreamedWeights(reading.Tensors(directory), {"encoder.embed_tokens.weight": "shared.weight"}))
    return model


@contextmanager
def _recorded(model: WanTransformer3DModel, indices: Sequence[int], seen: dict[int, BlockInputs]) -> Iterator[None]:
    """While open, keep what the blocks `indices` are given at their first call, for the first clip of the batch."""

    def hook(index: int) -> Callable[..., None]:
        def record(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if index not in seen:
                names = ("x", "context", "timestep_proj")
                seen[index] = {name: part[:1].float().numpy().copy() for name, part in zip(names, given[:3], strict=True)}

        return record

    handles = [model.blocks[index].register_forward_pre_hook(hook(index)) for index in indices]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _grid(frames: int, height: int, width: int) -> np.ndarray:
    """Tokens along time, rows and columns, of a latent."""
    return np.array([frames, height // 2, width // 2])


@torch.inference_mode()
def calibrate_random(source: Source) -> tuple[dict[str, float], dict[int, BlockInputs]]:
    """Input maxima of every quantized layer, and what the first and last block were given.

    Random blocks are all alike: one is run, on seeded noise, and stands for all.
    """
    one = replace(source, layers=1)
    config = one.config
    model = streamed_transformer(one)
    generator = torch.Generator().manual_seed(0)
    batch = len(_RANDOM_TIMESTEPS)

    def noise(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    inputs: dict[str, Any] = {
        "hidden_states": noise(config.in_channels, *_RANDOM_LATENT),
        "timestep": torch.tensor(_RANDOM_TIMESTEPS),
        "encoder_hidden_states": noise(TEXT_LENGTH, config.text_dim),
    }
    if config.image_dim is not None:
        inputs["encoder_hidden_states_image"] = noise(IMAGE_TOKENS, config.image_dim)
    seen: dict[int, BlockInputs] = {}
    with _recorded(model, [0], seen):
        maxima = input_maxima(model, policy.all_linears(config), lambda: model(**inputs, return_dict=False), ["blocks.0.attn1"])
    seen[0]["grid"] = _grid(*_RANDOM_LATENT)
    last = source.config.num_layers - 1
    parts = [f"{name}.{part}" for name in policy.fp8_attentions(source.config) for part in "qkv"]
    names = [*policy.all_linears(source.config), *parts]
    alike = {name: maxima["blocks.0." + name.split(".", 2)[2]] for name in names}
    return alike, {0: seen[0], last: seen[0]}


@torch.inference_mode()
def calibrate_checkpoint(
    source: Source, variant: Variant, prompts: Sequence[str], advance: Callable[[float], None]
) -> tuple[dict[str, float], dict[int, BlockInputs]]:
    """The same from real runs of diffusers' pipeline on `prompts`, small and short, without ever holding the model.

    Both branches of guidance run, at `STEPS` noise levels of the variant's schedule. `advance` is told of each step.
    """
    assert source.directory is not None
    root = source.directory.parent
    model = streamed_transformer(source)
    pipe = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(root / "tokenizer"),
        text_encoder=_streamed_text_encoder(root / "text_encoder"),
        vae=None,
        scheduler=UniPCMultistepScheduler.from_pretrained(root / "scheduler", flow_shift=variant.flow_shift),
        transformer=model,
    )
    pipe.set_progress_bar_config(disable=True)

    def tell(*_: object) -> dict[str, Any]:
        advance(1)
        return {}

    def run() -> None:
        pipe(
            list(prompts),
            negative_prompt=[variant.negative_prompt] * len(prompts),
            height=HEIGHT,
            width=WIDTH,
            num_frames=FRAMES,
            num_inference_steps=STEPS,
            guidance_scale=variant.guidance_scale,
            generator=[torch.Generator().manual_seed(index) for index in range(len(prompts))],
            output_type="latent",
            callback_on_step_end=tell,
            callback_on_step_end_tensor_inputs=[],
        )

    last = source.config.num_layers - 1
    seen: dict[int, BlockInputs] = {}
    with _recorded(model, sorted({0, last}), seen):
        maxima = input_maxima(model, policy.all_linears(source.config), run, policy.fp8_attentions(source.config))
    for inputs in seen.values():
        inputs["grid"] = _grid((FRAMES - 1) // 4 + 1, HEIGHT // 8, WIDTH // 8)
    return maxima, seen
