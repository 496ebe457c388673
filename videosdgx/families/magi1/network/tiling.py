"""Encoding and decoding a video tile by tile, blended where tiles overlap (docs/specs/magi1.md, section 10.1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """Size of one tile in frames and pixels, the share by which neighbours overlap in space, and the size of a patch.

    Tiles do not overlap in time.
    """

    length: int
    height: int
    width: int
    overlap: float
    patch_length: int
    patch_size: int


def tiled_encode(encode: Callable[[Tensor], Tensor], video: Tensor, tiles: Tiles) -> Tensor:
    """Video [N, 3, F, H, W] -> what `encode` makes of each tile, put together: [N, C, T, H / 8, W / 8].

    A tile is blended with neighbours that are blended already, as in the original.
    """
    size = (tiles.height, tiles.width)
    latent_size = (tiles.height // tiles.patch_size, tiles.width // tiles.patch_size)
    return _in_time(
        video, tiles.length, lambda part: _in_space(encode, part, size, latent_size, tiles.overlap, blend_blended=True)
    )


def tiled_decode(decode: Callable[[Tensor], Tensor], latents: Tensor, tiles: Tiles) -> Tensor:
    """Latents [N, C, T, H, W] -> what `decode` makes of each tile, put together: [N, 3, F, 8 H, 8 W].

    A tile is blended with its neighbours as decoded, before they are blended themselves, as in the original.
    """
    size = (tiles.height, tiles.width)
    latent_size = (tiles.height // tiles.patch_size, tiles.width // tiles.patch_size)
    length = tiles.length // tiles.patch_length
    return _in_time(
        latents, length, lambda part: _in_space(decode, part, latent_size, size, tiles.overlap, blend_blended=False)
    )


def _in_time(x: Tensor, length: int, run: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.cat([run(part) for part in x.split(length, dim=2)], dim=2)


def _in_space(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    size: tuple[int, int],
    out_size: tuple[int, int],
    overlap: float,
    *,
    blend_blended: bool,
) -> Tensor:
    """Run one part of the time in tiles of `size` (height, width); `out_size` is what becomes of a whole tile.

    There are ceil(side / stride) tiles on each axis, so a last tile may lie inside the one before it; tiles at the edge
    are shorter.
    """
    strides = [int(side * (1 - overlap)) for side in size]
    out_strides = [side - int(side * overlap) for side in out_size]
    rows = [
        [
            run(x[..., top : top + size[0], left : left + size[1]])
            for left in range(0, math.ceil(x.shape[-1] / strides[1]) * strides[1], strides[1])
        ]
        for top in range(0, math.ceil(x.shape[-2] / strides[0]) * strides[0], strides[0])
    ]
    blended_rows: list[list[Tensor]] = []
    for i, row in enumerate(rows):
        blended: list[Tensor] = []
        for j, tile in enumerate(row):
            if i:
                above = (blended_rows if blend_blended else rows)[i - 1][j]
                tile = _blend(above, tile, out_size[0] - out_strides[0], dim=-2)
            if j:
                left_tile = (blended if blend_blended else row)[j - 1]
                tile = _blend(left_tile, tile, out_size[1] - out_strides[1], dim=-1)
            blended.append(tile)
        blended_rows.append(blended)
    return torch.cat(
        [torch.cat([tile[..., : out_strides[0], : out_strides[1]] for tile in row], dim=-1) for row in blended_rows],
        dim=-2,
    )


def _blend(before: Tensor, tile: Tensor, extent: int, dim: int) -> Tensor:
    """`tile` whose first `extent` entries along `dim` go over from the last ones of `before`, linearly."""
    extent = min(extent, before.shape[dim], tile.shape[dim])
    shape = [1] * tile.ndim
    shape[dim] = extent
    weight = (torch.arange(extent, device=tile.device, dtype=torch.float32) / extent).to(tile.dtype).view(shape)
    old = before.narrow(dim, before.shape[dim] - extent, extent)
    new = tile.narrow(dim, 0, extent)
    rest = tile.narrow(dim, extent, tile.shape[dim] - extent)
    return torch.cat([old * (1 - weight) + new * weight, rest], dim=dim)
