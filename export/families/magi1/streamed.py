"""Calibrating a transformer that does not fit in memory: its layers are read from the source as they run.

As for Wan 2.1 (`export.families.wan21.streamed`), whose hooks are used: each layer's weights are in place only while it runs.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from accelerate.hooks import attach_align_device_hook
from torch import Tensor, nn
from transformers import AutoTokenizer, T5EncoderModel

from export.checkpoint import reading
from export.checkpoint.hooks import StreamedWeights, streamed
from export.checkpoint.source import Source
from export.families.magi1.config import CHUNK_FRAMES, MagiConfig, block_name
from export.families.magi1.pipeline import SPECIAL_TOKENS, plain_linears
from export.run.recipe import Advance
from videosdgx.families.magi1.network.block import MagiTransformerBlock
from videosdgx.families.magi1.network.rotary import token_positions
from videosdgx.families.magi1.network.transformer import MagiTransformer3DModel
from videosdgx.families.magi1.pipeline import MagiPipeline
from videosdgx.families.magi1.sampling.text import MagiSpecialTokens
from videosdgx.families.spec import Variant

# Small enough for a CPU: the layers' inputs are normalised, so their range hardly depends on how many tokens there are.
WIDTH, HEIGHT, FRAMES, STEPS = 192, 128, 48, 4
# What random weights see: a chunk after another one, noisy and less so, with a text.
TIMES = (0.05, 0.5)
_TEXT_TOKENS = 50
_GRID = (4, 6)


def streamed_transformer(source: Source) -> MagiTransformer3DModel:
    """The transformer in fp32 that holds one layer of its blocks at a time."""
    with init_empty_weights():
        model = MagiTransformer3DModel.from_config(source.plain_content)
    blocks = block_name("").removesuffix(".")
    small = {name: source.tensors[name].float() for name in source.tensors if not name.startswith(blocks)}
    model.load_state_dict(small, strict=False, assign=True)
    plain_linears(model.eval())
    layers = model.videodit_blocks.layers
    weights = StreamedWeights(source.tensors)
    attach_align_device_hook(layers, execution_device="cpu", offload=True, weights_map=weights, module_name=blocks)
    return model


def given(arguments: tuple[Any, ...]) -> dict[str, Tensor] | None:
    """What a block's graph is given, from the arguments of the model's block; None for a chunk that sees none before it."""
    x, condition, (cos, sin), text_kv, past = arguments[:5]
    if past is None or not len(past):
        return None
    return {"x": x, "condition": condition, "cos": cos, "sin": sin, "text_kv": text_kv, "past_kv": past}


def block(config: MagiConfig) -> MagiTransformerBlock:
    """The model's block."""
    return MagiTransformerBlock(**config.block)


def run_block(own: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """What the model's block makes of the inputs of the block's graph."""
    rotary = (inputs["cos"], inputs["sin"])
    result: Tensor = own(inputs["x"], inputs["condition"], rotary, inputs["text_kv"], inputs["past_kv"])[0]
    return result


def run_noise(source: Source, model: nn.Module) -> None:
    """A chunk of seeded noise after another one, noisy and less so, with a text."""
    config, magi = source.config, cast(MagiTransformer3DModel, model)
    generator = torch.Generator().manual_seed(0)
    rows, columns = _GRID
    positions = token_positions(CHUNK_FRAMES, CHUNK_FRAMES, rows, columns)
    latents = torch.randn(1, config.latent_channels, CHUNK_FRAMES, 2 * rows, 2 * columns, generator=generator)
    features = torch.randn(_TEXT_TOKENS, config.caption_channels, generator=generator)
    step_size = torch.tensor([8.0]) if config.distilled else None
    text_kv = magi.encode_text(features)
    past = [torch.zeros(0, config.num_query_groups, 2 * config.attention_head_dim)] * config.num_layers
    for time in TIMES:
        chunk = (latents, torch.tensor([time]), torch.tensor([True]), positions, text_kv)
        past = magi.forward_chunk(*chunk, past, step_size)[1]


class _NoVae:
    """In place of the autoencoder: a calibration needs no pictures."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, channels: int) -> None:
        self.config = SimpleNamespace(latent_channels=channels, scaling_factor=1.0)

    def decode(self, latents: Tensor) -> SimpleNamespace:
        """A black picture instead of each chunk."""
        return SimpleNamespace(sample=torch.zeros(1, 3, 4 * latents.shape[2], HEIGHT, WIDTH))


class _OnCpu(T5EncoderModel):
    """Says where its inputs belong, which its weights, elsewhere until they are needed, do not tell."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device("cpu")


def _text_encoder(directory: Path) -> T5EncoderModel:
    with init_empty_weights():
        model = _OnCpu(T5EncoderModel.config_class.from_pretrained(directory)).eval()
    aliases = {"encoder.embed_tokens.weight": "shared.weight"}
    return streamed(model, StreamedWeights(reading.Tensors(directory), aliases))


def run_prompts(source: Source, model: nn.Module, variant: Variant, prompts: Sequence[str], advance: Advance) -> None:
    """Real runs of the pipeline on `prompts`, small and short, without ever holding the model.

    All branches of guidance run, at `STEPS` noise levels, for two chunks. `advance` is told of each clip.
    """
    assert source.directory is not None
    root = source.directory.parent
    special = root / SPECIAL_TOKENS
    pipe = MagiPipeline(
        tokenizer=AutoTokenizer.from_pretrained(root / "tokenizer"),
        text_encoder=_text_encoder(root / "text_encoder"),
        transformer=model,
        vae=_NoVae(source.config.latent_channels),
        special_tokens=MagiSpecialTokens.from_pretrained(special, use_safetensors=True) if special.is_dir() else None,
    )
    for index, prompt in enumerate(prompts):
        clip = pipe.stream(
            prompt,
            height=HEIGHT,
            width=WIDTH,
            num_frames=FRAMES,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(index),
        )
        for _ in clip:
            pass
        advance(1)
