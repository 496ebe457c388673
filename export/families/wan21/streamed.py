"""Calibrating a transformer that does not fit in memory: its layers are read from the source as they run.

The demo is small enough to run its real pipeline; a published checkpoint is not, on the machines where engines are
compiled. Here `accelerate` puts each layer's weights in place just before the layer runs and drops them after it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn
from transformers import AutoTokenizer, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

from export.checkpoint import reading
from export.checkpoint.hooks import StreamedWeights, streamed
from export.checkpoint.source import Source
from export.families.wan21.lowered import TEXT_LENGTH, WanConfig
from export.families.wan21.profiles import IMAGE_TOKENS
from export.run.recipe import Advance
from videosdgx.families.spec import Variant
from videosdgx.families.wan21.few_step import build_scheduler, share_generator

# Small enough for a CPU: the layers' inputs are normalised, so their range hardly depends on how many tokens there are.
WIDTH, HEIGHT, FRAMES = 224, 128, 5
PROMPTS, STEPS = 4, 4
# What random weights see: two latents of 3 x 16 x 24, one noisy and one less so.
_RANDOM_LATENT = (3, 16, 24)
_RANDOM_TIMESTEPS = (900.0, 400.0)


def streamed_transformer(source: Source) -> WanTransformer3DModel:
    """diffusers' transformer in fp32 that holds one layer at a time."""
    with init_empty_weights():
        model = WanTransformer3DModel.from_config(source.plain_content)
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


def given(arguments: tuple[Any, ...]) -> dict[str, Tensor]:
    """What a block's graph is given, from the arguments of diffusers' block: of the first clip of the batch.

    diffusers has each angle twice, side by side, in tables [1, S, 1, D]; the graph takes it once.
    """
    x, context, timestep_proj, (cos, sin) = arguments[:4]
    clip = {"x": x[:1], "context": context[:1], "timestep_proj": timestep_proj[:1]}
    return clip | {"cos": cos[..., 0::2], "sin": sin[..., 1::2]}


def block(config: WanConfig) -> WanTransformerBlock:
    """diffusers' block."""
    return WanTransformerBlock(
        config.dim,
        config.ffn_dim,
        config.num_attention_heads,
        "rms_norm_across_heads",
        config.cross_attn_norm,
        config.eps,
        config.added_kv_proj_dim,
    )


def run_block(own: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """What diffusers' block makes of the inputs of the block's graph."""
    rotary = tuple(inputs[name].repeat_interleave(2, -1) for name in ("cos", "sin"))
    result: Tensor = own(inputs["x"], inputs["context"], inputs["timestep_proj"], rotary)
    return result


def run_noise(source: Source, model: nn.Module) -> None:
    """One forward on seeded noise: two latents, one noisy and one less so."""
    config, generator = source.config, torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(len(_RANDOM_TIMESTEPS), *shape, generator=generator)

    inputs = {
        "hidden_states": noise(config.in_channels, *_RANDOM_LATENT),
        "timestep": torch.tensor(_RANDOM_TIMESTEPS),
        "encoder_hidden_states": noise(TEXT_LENGTH, config.text_dim),
    }
    if config.image_dim is not None:
        inputs["encoder_hidden_states_image"] = noise(IMAGE_TOKENS, config.image_dim)
    model(**inputs, return_dict=False)


def run_prompts(source: Source, model: nn.Module, variant: Variant, prompts: Sequence[str], advance: Advance) -> None:
    """Real runs of diffusers' pipeline on `prompts`, small and short, without ever holding the model.

    Both branches of guidance run, if there is any, at `STEPS` noise levels of the variant's schedule. `advance` is told of each
    step.
    """
    assert source.directory is not None
    root = source.directory.parent
    pipe = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(root / "tokenizer"),
        text_encoder=_streamed_text_encoder(root / "text_encoder"),
        vae=None,
        scheduler=build_scheduler(root / "scheduler", variant.sampler, variant.flow_shift),
        transformer=model,
    )
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(index) for index in range(len(prompts))]
    share_generator(pipe.scheduler, generators)

    def tell(*_: object) -> dict[str, Any]:
        advance(1)
        return {}

    pipe(
        list(prompts),
        negative_prompt=[variant.negative_prompt] * len(prompts),
        height=HEIGHT,
        width=WIDTH,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=variant.guidance_scale,
        generator=generators,
        output_type="latent",
        callback_on_step_end=tell,
        callback_on_step_end_tensor_inputs=[],
    )
