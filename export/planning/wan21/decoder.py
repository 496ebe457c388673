"""Wan 2.1's video decoder as an engine (`videosdgx export wan21 --component vae`), to hold against PyTorch's."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from export.checkpoint import reading
from export.families.wan21.vae_graph import cache_shapes
from export.families.wan21.vae_lowered import HISTORY, LoweredVaeDecoder, Step, VaeConfig
from export.families.wan21.vae_recipe import DTYPES, buffer_bytes, profiles
from export.planning.counting import Count, count, parameter_bytes
from export.planning.engines import TARGET
from export.planning.torch_part import tile_extents
from export.planning.work import Bytes, Operation, Part
from videosdgx.artifacts import MANIFEST, Manifest, artifact_dir, read_manifest
from videosdgx.families.wan21.spec import SPEC
from videosdgx.families.wan21.vae_loop import LATENT, SPATIAL, TEMPORAL, Tiling

PRECISIONS = SPEC.component("vae").engine["sm121"]
_FRAME_BYTES = 3 * 4  # of a pixel in fp32


def exported(home: Path, variant: str) -> Manifest | None:
    """The manifest of the engine that would be served: the first precision of which there is one below `home`."""
    for precision in PRECISIONS:
        directory = artifact_dir(home, "wan21", variant, "vae", precision, TARGET)
        if (directory / MANIFEST).is_file():
            return read_manifest(directory)
    return None


@cache
def _config(source: Path | None) -> VaeConfig:
    return VaeConfig.from_dict({} if source is None else reading.config(source / "vae"))


def _module(config: VaeConfig, first: bool, dtype: torch.dtype) -> LoweredVaeDecoder:
    with torch.device("meta"):
        return LoweredVaeDecoder(config, Step(first, dtype))


@cache
def _step(config: VaeConfig, first: bool, dtype: torch.dtype, height: int, width: int) -> Count:
    """What one step of the engine does to one latent frame, by its own graph."""
    module = _module(config, first, dtype)
    with torch.device("meta"):
        latent = torch.empty(1, config.z_dim, 1, height, width)
        cached = [torch.empty(1, c, HISTORY, s * height, s * width, dtype=dtype) for c, s in cache_shapes(config)]
    return count(lambda: module(latent, None if first else cached))


def _tiles(sizes: Mapping[tuple[int, int], Any], height: int, width: int) -> list[tuple[int, int]]:
    """The pieces of a latent frame: one, if a profile takes it whole, else tiles as the loop cuts them."""
    if any(height <= high and width <= wide for high, wide in sizes):
        return [(height, width)]
    tile, stride = Tiling().size // SPATIAL, Tiling().stride // SPATIAL
    return [(y, x) for y in tile_extents(height, tile, stride) for x in tile_extents(width, tile, stride)]


def decoder_engine(manifest: Manifest | None, source: Path | None, latent: tuple[int, int, int]) -> Part:
    """The decoder as an engine: that of the manifest, or as it would be in fp16, its frames in tiles.

    Working memory is what the compiler reports (or, before it was compiled, the most that is alive at once in the graph),
    the feature cache, and the video, which the loop allocates once.
    """
    config, precision = _config(source), manifest.precision if manifest else PRECISIONS[0]
    frames, height, width = latent
    ranges = manifest.profiles if manifest else profiles(config, [])
    by_size = {(profile.max[LATENT][3], profile.max[LATENT][4]): profile for profile in ranges}
    pieces = _tiles(by_size, height, width)
    dtype = DTYPES[precision]
    counts = [(_step(config, True, dtype, *piece), _step(config, False, dtype, *piece)) for piece in pieces]
    flops = sum(first.flops + (frames - 1) * following.flops for first, following in counts)
    moved = sum(first.moved_bytes + (frames - 1) * following.moved_bytes for first, following in counts)
    largest = max(pieces, key=lambda piece: piece[0] * piece[1])
    fitting = [profile for (high, wide), profile in by_size.items() if largest[0] <= high and largest[1] <= wide]
    profile = min(fitting, key=lambda one: one.max[LATENT][3] * one.max[LATENT][4])
    video = _FRAME_BYTES * (TEMPORAL * (frames - 1) + 1) * SPATIAL**2 * height * width
    beside = buffer_bytes(profile, cache_shapes(config)) + video
    if manifest is not None and manifest.memory is not None:
        weights = Bytes(manifest.memory.weights_bytes, "manifest")
        activation = Bytes((profile.activation_bytes or manifest.memory.activation_bytes or 0) + beside, "manifest")
    else:
        weights = Bytes(sum(parameter_bytes(_module(config, first, dtype)) for first in (True, False)), "counted")
        activation = Bytes(max(following.peak_bytes for _, following in counts) + beside, "estimated")
    return Part(
        component="vae",
        precision=precision,
        weights=weights,
        activation=activation,
        operations=(Operation("decode", "fp16", flops, moved),),
        runs=1,
    )
