"""The work of the parts of Wan 2.1 that run in PyTorch, counted on their real modules on the meta device.

Configurations of the published parts: docs/specs/wan21.md, section 1; diffusers' defaults of `AutoencoderKLWan` are Wan's.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from export.checkpoint import reading
from export.families.wan21.lowered import TEXT_LENGTH
from export.families.wan21.profiles import SPATIAL, TEMPORAL
from export.planning.counting import Count, count, parameter_bytes
from export.planning.torch_part import DTYPES, text_encoder_counts, tile_extents

_UMT5_XXL = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip


def _settings(source: Path | None, part: str, published: dict[str, Any]) -> dict[str, Any]:
    """The config of a part: of the checkpoint `source`, or the published one."""
    return published if source is None else reading.config(source / part)


@cache
def text_encoder(source: Path | None, precision: str) -> tuple[int, Count]:
    """Bytes of the weights, and what one prompt of 512 tokens costs."""
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(**_settings(source, "text_encoder", _UMT5_XXL))
    return text_encoder_counts(UMT5EncoderModel, config, TEXT_LENGTH, precision)


@cache
def _vae(source: Path | None, precision: str) -> Any:
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        model = AutoencoderKLWan.from_config(_settings(source, "vae", {})).eval()
    # diffusers' own `to` warns of modules that should stay in fp32, of which there are none.
    return torch.nn.Module.to(model, DTYPES[precision])


def vae_bytes(source: Path | None, precision: str) -> int:
    """Bytes of the weights of encoder and decoder."""
    return parameter_bytes(_vae(source, precision))


@cache
def _run(source: Path | None, precision: str, decode: bool, frames: int, h: int, w: int) -> Count:
    """Decoding a latent [frames, h, w], or encoding what becomes it, in one tile."""
    model = _vae(source, precision)
    if decode:
        z = torch.empty(1, model.config.z_dim, frames, h, w, device="meta", dtype=DTYPES[precision])
        return count(lambda: model.decode(z, return_dict=False))
    x = torch.empty(1, 3, TEMPORAL * (frames - 1) + 1, SPATIAL * h, SPATIAL * w, device="meta", dtype=DTYPES[precision])
    return count(lambda: model.encode(x, return_dict=False))


def vae(source: Path | None, precision: str, decode: bool, latent: tuple[int, int, int]) -> Count:
    """Decoding or encoding a clip of latent size [f, h, w], in tiles of 256 pixels with stride 192 as the server does.

    Every latent frame after the first costs the same, so two runs tell the work of any number of frames. A decoder's
    peak is one tile at work beside the tiles that are finished; joining them makes three more copies of the whole clip.
    An encoder's results are too small to count.
    """
    f, h, w = latent
    model = _vae(source, precision)
    ratio = model.spatial_compression_ratio
    if not decode:
        ratio //= model.config.patch_size or 1  # the encoder's tiles are of what patches make of the pixels
    tile, stride = model.tile_sample_min_height // ratio, model.tile_sample_stride_height // ratio
    tiled = max(h, w) > model.tile_sample_min_height // model.spatial_compression_ratio
    tiles = [(y, x) for y in tile_extents(h, tile, stride) for x in tile_extents(w, tile, stride)] if tiled else [(h, w)]
    flops = moved = largest = 0
    for size in tiles:
        first, second = (_run(source, precision, decode, frames, *size) for frames in (1, 2))
        flops += first.flops + (f - 1) * (second.flops - first.flops)
        moved += first.moved_bytes + (f - 1) * (second.moved_bytes - first.moved_bytes)
        largest = max(largest, (second if f > 1 else first).peak_bytes)
    pixel = 3 * DTYPES[precision].itemsize * (TEMPORAL * (f - 1) + 1) * SPATIAL**2 if decode else 0
    whole, finished = h * w * pixel, sum(y * x for y, x in tiles) * pixel
    peak = finished + max(largest, 3 * whole) if tiled else max(whole + largest, 2 * whole)
    return Count(flops, moved, peak)
