"""One full-width block of an exported graph on ONNX Runtime against diffusers' block with the checkpoint's weights.

A full-size model cannot make clips on the machine that compiles it; its blocks are alike, and one of each kind can run.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformerBlock
from torch import Tensor

from export.check.accuracy import cosine, snr_db
from export.check.block import run_block
from export.check.blockwise import BlockInputs
from export.families.wan21.graph import block_piece
from export.families.wan21.lowered import WanConfig
from export.families.wan21.source import Source
from export.graph.lowering import Build
from export.quantize.attention import attention_scales


def _rotary(config: WanConfig, grid: np.ndarray) -> tuple[Tensor, Tensor]:
    """diffusers' tables [1, S, 1, D] for a latent of `grid` tokens."""
    embed = WanRotaryPosEmbed(config.attention_head_dim, config.patch_size, config.rope_max_seq_len)
    f, h, w = (int(length) * patch for length, patch in zip(grid, config.patch_size, strict=True))
    cos, sin = embed(torch.empty(1, config.in_channels, f, h, w))
    return cos, sin


@torch.inference_mode()
def _expected(source: Source, index: int, given: BlockInputs) -> np.ndarray:
    """What diffusers' block `index` makes of `given`, in fp32."""
    config = source.config
    with torch.device("meta"):
        block = WanTransformerBlock(
            config.dim,
            config.ffn_dim,
            config.num_attention_heads,
            "rms_norm_across_heads",
            config.cross_attn_norm,
            config.eps,
            config.added_kv_proj_dim,
        ).eval()
    prefix = f"blocks.{index}."
    own = {name.removeprefix(prefix): source.tensors[name].float() for name in source.tensors if name.startswith(prefix)}
    block.load_state_dict(own, assign=True)
    x, context, timestep_proj = (torch.from_numpy(given[name]) for name in ("x", "context", "timestep_proj"))
    result: Tensor = block(x, context, timestep_proj, _rotary(config, given["grid"]))
    return result.numpy()


def _made(
    source: Source,
    index: int,
    given: BlockInputs,
    build: Build,
    maxima: Mapping[str, float],
    scratch: Path,
) -> np.ndarray:
    """What the exported block `index` makes of `given`, on ONNX Runtime."""
    config = source.config
    prefix = f"blocks.{index}."
    cos, sin = _rotary(config, given["grid"])
    inputs = {name: given[name] for name in ("x", "context", "timestep_proj")}
    inputs |= {"cos": cos[..., 0::2].numpy(), "sin": sin[..., 1::2].numpy()}
    attentions = [name for name in build.fp8_attention if name.startswith(prefix)]
    scales = attention_scales(attentions, config.attention_head_dim, maxima)
    piece = block_piece(config, build, index)
    return run_block(piece, prefix, source.tensors, inputs, build, maxima, scratch, scales.items())


def check(
    source: Source,
    given: Mapping[int, BlockInputs],
    build: Build,
    maxima: Mapping[str, float],
    scratch: Path,
) -> dict[str, float]:
    """Cosine and signal-to-noise ratio of the blocks in `given` against diffusers with the same weights.

    They are made as `build` says, in fp32, as ONNX Runtime computes on a CPU.

    `block_cosine` is the worse of their outputs'. What a block adds to its input is a stricter measure, as the input
    passes unchanged: `block_change_snr_db` is the worse of those.
    """
    cosines, changes = [], []
    for index, inputs in given.items():
        expected = _expected(source, index, inputs)
        made = _made(source, index, inputs, build, maxima, scratch)
        cosines.append(cosine(made, expected))
        changes.append(snr_db(made - inputs["x"], expected - inputs["x"]))
    return {"block_cosine": min(cosines), "block_change_snr_db": min(changes), "blocks_checked": float(len(given))}
