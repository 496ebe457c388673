"""The work of the parts of MAGI-1 that run in PyTorch, counted on their real modules on the meta device.

Configurations of the published parts: docs/specs/magi1.md, sections 9.1 and 10; the defaults of `AutoencoderKLMagi` are the
published ones.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from export.checkpoint import reading
from export.planning.counting import Count, count, parameter_bytes
from export.planning.magi1.transformer import CHUNK_WIDTH
from export.planning.torch_part import DTYPES, text_encoder_counts, tile_extents
from videosdgx.families.magi1.architectures import TRANSFORMERS
from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi

_T5_XXL = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
TEXT_LENGTH = next(iter(TRANSFORMERS.values()))["caption_max_length"]  # prompts are padded to it


@cache
def text_encoder(source: Path | None, precision: str) -> tuple[int, Count]:
    """Bytes of the weights, and what one prompt of 800 tokens costs."""
    from transformers import T5Config, T5EncoderModel

    settings = _T5_XXL if source is None else reading.config(source / "text_encoder")
    return text_encoder_counts(T5EncoderModel, T5Config(**settings), TEXT_LENGTH, precision)


@cache
def _vae(source: Path | None, precision: str) -> Any:
    with torch.device("meta"):
        model = AutoencoderKLMagi.from_config({} if source is None else reading.config(source / "vae")).eval()
    return torch.nn.Module.to(model, DTYPES[precision])


def vae_bytes(source: Path | None, precision: str) -> int:
    """Bytes of the weights of encoder and decoder."""
    return parameter_bytes(_vae(source, precision))


def spatial_ratio(source: Path | None) -> int:
    """Pixels to a latent value, a side."""
    ratio: int = _vae(source, "bf16").config.patch_size
    return ratio


@cache
def _decode_tile(source: Path | None, precision: str, frames: int, height: int, width: int) -> Count:
    model = _vae(source, precision)
    size = (1, model.config.latent_channels, frames, height, width)
    z = torch.empty(size, device="meta", dtype=DTYPES[precision])
    return count(lambda: model.decode_tile(z))


def decode_chunk(source: Path | None, precision: str, height: int, width: int) -> Count:
    """Decoding the latents of one chunk, `height` x `width`, tile by tile; tiles of a size cost the same.

    The peak is in the last part of the time, beside the finished ones: one tile at work beside its other tiles, or all its
    tiles as decoded, as blended, and two times put together. What the joining moves is little beside it, and left out.
    """
    model = _vae(source, precision)
    tiles, channels = model.tiles, model.config.in_channels
    stride = [int(side // tiles.patch_size * (1 - tiles.overlap)) for side in (tiles.height, tiles.width)]
    rows, columns = (
        tile_extents(length, side // tiles.patch_size, step)
        for length, side, step in zip((height, width), (tiles.height, tiles.width), stride, strict=True)
    )
    lengths = tile_extents(CHUNK_WIDTH, *2 * [tiles.length // tiles.patch_length])
    counts = [_decode_tile(source, precision, t, h, w) for t in lengths for h in rows for w in columns]
    pixels = channels * DTYPES[precision].itemsize * tiles.patch_length * tiles.patch_size**2
    part, tiled = (lengths[0] * area * pixels for area in (height * width, sum(rows) * sum(columns)))
    before = sum(lengths[1:]) * height * width * pixels
    peak = before + max(tiled + max(one.peak_bytes for one in counts), 2 * tiled + 2 * part)
    return Count(sum(one.flops for one in counts), sum(one.moved_bytes for one in counts), peak)
