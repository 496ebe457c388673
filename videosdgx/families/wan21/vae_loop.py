"""Decoding a video with two engines: one for the first latent frame, one for each that follows.

The past of the causal convolutions, the cache, goes from one call to the next without being looked at: an engine that
keeps it on the GPU may hand out what it likes. Frames are wider than one tile only where they must be, and tiles are
blended where they overlap, to the last bit as diffusers' tiled decoding does it; but the video is allocated once.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

LATENT, FRAMES = "latent", "frames"
SPATIAL, TEMPORAL = 8, 4  # pixels and frames per latent (the first frame is alone)


def cache_input(index: int) -> str:
    """What the second engine calls the past of convolution `index`."""
    return f"cache_{index}"


def cache_output(index: int) -> str:
    """What both engines call the past that convolution `index` leaves."""
    return f"cache_{index}_out"


class StepEngine(Protocol):
    """One step of decoding: `latent` fp32 [1,16,1,h,w] and the cache -> `frames` fp32 [1,3,1 or 4,8h,8w], new cache."""

    def run(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Outputs by name; `latent` and `frames` are numpy arrays, the cache is whatever the engine takes back."""
        ...


@dataclass(frozen=True)
class Tiling:
    """Tiles of `size` pixels, one every `stride`; diffusers' defaults. Frames that fit into one tile are not cut."""

    size: int = 256
    stride: int = 192

    @property
    def overlap(self) -> int:
        """Pixels that two neighbours share."""
        return self.size - self.stride


@dataclass(frozen=True)
class DecoderLoop:
    """The decoder of `AutoencoderKLWan` on two engines.

    Clips are decoded one after another. Frames of up to one of the `whole` sizes (height, width in pixels) are decoded as
    they are, others in tiles, which the engines must take too. `patch` is the config's patch_size (1 where there is none).
    """

    first: StepEngine
    following: StepEngine
    tiling: Tiling = Tiling()
    whole: tuple[tuple[int, int], ...] = ()
    patch: int = 1

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Video fp32 [B,3,F,8h,8w] in [-1,1] for latents fp32 [B,16,f,h,w] that are no longer normalised; F = 4f - 3."""
        batch, _, frames, height, width = latents.shape
        shape = (batch, 3, TEMPORAL * (frames - 1) + 1, SPATIAL * height, SPATIAL * width)
        video = np.empty(shape, np.float32)
        tile = (self.tiling.size, self.tiling.size)
        fits = any(shape[3] <= high and shape[4] <= wide for high, wide in (tile, *self.whole))
        for index in range(batch):
            clip = slice(index, index + 1)
            (self._decode_tile if fits else self._decode_tiles)(latents[clip], video[clip])
        return np.clip(video, -1, 1, out=video)

    def _decode_tile(self, latents: np.ndarray, video: np.ndarray) -> None:
        """Fill `video` with the frames of `latents`, one latent frame after another; not clamped."""
        cache: dict[str, Any] = {}
        end = 0
        for index in range(latents.shape[2]):
            engine = self.first if index == 0 else self.following
            outputs = engine.run({LATENT: np.ascontiguousarray(latents[:, :, index : index + 1]), **cache})
            cache = {cache_input(i): outputs[cache_output(i)] for i in range(len(outputs) - 1)}
            start, end = end, end + outputs[FRAMES].shape[2]
            video[:, :, start:end] = outputs[FRAMES]

    def _decode_tiles(self, latents: np.ndarray, video: np.ndarray) -> None:
        """As `_decode_tile`, in tiles. Of each tile only the borders that its neighbours blend with are kept."""
        overlap, stride = self.tiling.overlap, self.tiling.stride
        bottoms: dict[int, np.ndarray] = {}  # of the tiles above, by column
        for top, height in self._places(video.shape[3]):
            right: np.ndarray | None = None  # of the tile to the left
            for left, width in self._places(video.shape[4]):
                rows, columns = slice(top, top + height), slice(left, left + width)
                tile = np.empty((*video.shape[:3], height, width), np.float32)
                self._decode_tile(latents[..., _latent(rows), _latent(columns)], tile)
                if left in bottoms:
                    self._blend(bottoms[left], tile, axis=3)
                if right is not None:
                    self._blend(right, tile, axis=4)
                bottoms[left] = tile[:, :, :, -overlap:].copy()
                right = tile[..., -overlap:].copy()
                kept = tile[:, :, :, :stride, :stride]
                video[:, :, :, top : top + kept.shape[3], left : left + kept.shape[4]] = kept

    def _places(self, length: int) -> Iterator[tuple[int, int]]:
        """Start and length (pixels) of each tile along an axis of `length`."""
        for start in range(0, length, self.tiling.stride):
            yield start, min(self.tiling.size, length - start)

    def _blend(self, border: np.ndarray, tile: np.ndarray, axis: int) -> None:
        """Fade from the neighbour's `border` into the beginning of `tile`, in place.

        diffusers blends before it takes patches apart, so the pixels of one patch have one weight.
        """
        extent = min(border.shape[axis], tile.shape[axis], self.tiling.overlap)
        whole = [slice(None)] * tile.ndim
        whole[axis] = slice(extent)
        begin, whole[axis] = tuple(whole), slice(-extent, None)
        shape = [extent if index == axis else 1 for index in range(tile.ndim)]
        weight = (np.arange(extent) // self.patch / (extent // self.patch)).reshape(shape)
        tile[begin] = border[tuple(whole)] * (1 - weight).astype(np.float32) + tile[begin] * weight.astype(np.float32)


def _latent(pixels: slice) -> slice:
    """The latent's positions of a range of pixels."""
    return slice(pixels.start // SPATIAL, pixels.stop // SPATIAL)
