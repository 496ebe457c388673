"""Train the VAE of the MAGI-1 demo checkpoint: tiles of 12 frames to latents 16 x 3 x 8 x 8 and back."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from export.demo.judge import judge
from export.demo.magi1 import world
from export.demo.optimise import optimisers, rate_at, set_rate
from export.demo.world import SIZE, Combination
from videosdgx.families.magi1.network.autoencoder import AutoencoderKLMagi, Block, Tower

TILE_FRAMES = 12  # the tile of MAGI-1; here it is also the native length, so that no position is interpolated
# The official layout makes embed_dim / 256 channels before the last convolution, 4 with its 1024. At this width there
# would be none, so a final projection makes the 4.
CONFIG = {
    "latent_channels": 16,
    "embed_dim": 128,
    "depth": 4,
    "num_heads": 4,
    "mlp_ratio": 4.0,
    "video_size": SIZE,
    "video_length": TILE_FRAMES,
    "patch_size": 8,
    "patch_length": 4,
    "use_final_proj": True,
}
STEPS = 1400
PEAK_RATE = 3e-3
# (share of the steps, pairs of tiles per batch, height = width): crops round the object first, whole tiles last.
PHASES = ((0.6, 8, 32), (0.4, 4, SIZE))
_JOIN = 30.0  # weight of the change of the error from one tile to the next, where an object seems to jump
_PATCH = 8
_LOG_VARIANCE = -5.0  # of the latents at the start: little noise, so that the picture comes first


def build(seed: int) -> AutoencoderKLMagi:
    """A fresh VAE whose residual branches start small."""
    torch.manual_seed(seed)
    vae = AutoencoderKLMagi(**CONFIG)
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, Tower):
                module.pos_embed.normal_(std=0.02)
            elif isinstance(module, Block):
                module.attn.proj.weight.mul_(0.3)
                module.mlp.fc2.weight.mul_(0.3)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        channels = vae.config.latent_channels
        vae.encoder.last_layer.weight[channels:].mul_(0.1)
        vae.encoder.last_layer.bias[channels:].fill_(_LOG_VARIANCE)
    return vae


def draw(combinations: Sequence[Combination], count: int, rng: np.random.Generator, pairs: bool = False) -> Tensor:
    """Render `count` tiles of random combinations: fp32 [count, 3, 12, SIZE, SIZE] in -1..1; or pairs of tiles, 24 frames.

    They are cut from clips of three chunks of one motion, single tiles where the VAE cuts, pairs anywhere.
    """
    clips = []
    for index in rng.integers(len(combinations), size=count):
        if pairs:
            first, frames = int(rng.integers(2 * world.CHUNK_FRAMES + 1)), 2 * TILE_FRAMES
        else:
            first, frames = TILE_FRAMES * int(rng.integers(3 * world.CHUNK_FRAMES // TILE_FRAMES)), TILE_FRAMES
        clips.append(world.render(combinations[index], [combinations[index].motion] * 3, rng, first, frames))
    return torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3) * 2 - 1


def crop(tiles: Tensor, size: int, rng: np.random.Generator) -> tuple[Tensor, list[tuple[int, int]]]:
    """From each tile [B, 3, F, H, W] cut a window of `size` pixels that holds much of the object, on the grid of patches.

    Returns the windows and the (row, column) of each in patches.
    """
    differs = (tiles - tiles[..., :1, :1]).abs().sum(dim=1).amax(dim=1) > 0.4  # [B, H, W]
    windows, corners = [], []
    for tile, mask in zip(tiles, differs, strict=True):
        corner = []
        for axis in (1, 0):  # rows, then columns
            place = mask.any(dim=axis).nonzero()
            centre = rng.integers(int(place.min()), int(place.max()) + 1)
            nearest = round((int(centre) - size // 2 + int(rng.integers(-4, 5))) / _PATCH)
            corner.append(int(np.clip(nearest, 0, (SIZE - size) // _PATCH)))
        top, left = _PATCH * corner[0], _PATCH * corner[1]
        windows.append(tile[..., top : top + size, left : left + size])
        corners.append((corner[0], corner[1]))
    return torch.stack(windows), corners


def place(tower: Tower, corners: list[tuple[int, int]], side: int) -> None:
    """Let `tower` see windows of `side` patches as the parts of the native tile that they are, from now on."""
    frames, height, width = tower.grid
    index = torch.arange(frames * height * width).view(frames, height, width)
    rows = torch.stack([index[:, top : top + side, left : left + side].flatten() for top, left in corners]) + 1
    rows = torch.cat([torch.zeros_like(rows[:, :1]), rows], dim=1)
    tower.positions = lambda grid: tower.pos_embed[0, rows]  # type: ignore[method-assign]


def loss(vae: AutoencoderKLMagi, pairs: Tensor) -> Tensor:
    """Reconstruction of two tiles in a row, fp32 [B, 3, 24, H, W], and a little KL divergence.

    The error is squared rather than absolute: the sum of the absolute errors is that of the large even surfaces, and an
    object that lies half a pixel beside its place in the first frame of a tile, a jump for who watches, hardly shows in it.
    """
    tiles = torch.cat(pairs.split(TILE_FRAMES, dim=2))
    mean, log_variance = vae.encoder(tiles).chunk(2, dim=1)
    log_variance = log_variance.clamp(-12, 4)
    rebuilt = vae.decoder(mean + torch.randn_like(mean) * (0.5 * log_variance).exp())
    error = torch.cat((rebuilt - tiles).split(len(pairs)), dim=2)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return _reconstruction(error) + 1e-4 * divergence


def _reconstruction(error: Tensor) -> Tensor:
    """Of the errors of pairs of tiles [B, 3, 24, H, W]: the picture, its edges, its change in time and from tile to tile."""
    edges = error.diff(dim=-1).square().mean() + error.diff(dim=-2).square().mean()
    change = error.diff(dim=2).square().mean()
    join = (error[:, :, TILE_FRAMES] - error[:, :, TILE_FRAMES - 1]).square().mean()
    return 0.1 * error.abs().mean() + 30 * error.square().mean() + 10 * edges + 30 * change + _JOIN * join


@torch.no_grad()
def psnr(vae: AutoencoderKLMagi, tiles: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each tile [B, 3, F, H, W] after encoding to the mean and decoding: [B]."""
    rebuilt = vae.decode(vae.encode(tiles).latent_dist.mode()).sample
    return -10 * torch.log10(((rebuilt - tiles) / 2).square().mean(dim=(1, 2, 3, 4)))


@torch.no_grad()
def recognised(vae: AutoencoderKLMagi, tiles: Tensor) -> float:
    """Share of the tiles whose shape the judge still names as before, after a round trip."""
    rebuilt = vae.decode(vae.encode(tiles).latent_dist.mode()).sample
    pairs = zip(*(((clips + 1) / 2).clamp(0, 1).permute(0, 2, 3, 4, 1).numpy() for clips in (tiles, rebuilt)), strict=True)
    return float(np.mean([judge(before).shape == judge(after).shape for before, after in pairs]))


@torch.no_grad()
def normalise_latents(vae: AutoencoderKLMagi, tiles: Tensor) -> None:
    """Rewrite the layers round the latents so that each channel, times `scaling_factor`, has mean 0 and deviation 1.

    MAGI-1 has one factor for all channels and no shift; with it the small transformer gets latents as even as those of
    a VAE that is normalised channel by channel.
    """
    channels = vae.config.latent_channels
    mean = torch.cat([vae.encoder(part)[:, :channels] for part in tiles.split(32)])
    shift, factor = mean.mean(dim=(0, 2, 3, 4)), 1 / (mean.std(dim=(0, 2, 3, 4)) * vae.config.scaling_factor)
    out, back = vae.encoder.last_layer, vae.decoder.proj_in
    out.weight[:channels] *= factor[:, None]
    out.bias[:channels] = (out.bias[:channels] - shift) * factor
    out.bias[channels:] += 2 * factor.log()
    back.bias.add_(back.weight @ shift)
    back.weight.div_(factor)


def _told(vae: AutoencoderKLMagi, value: Tensor, unseen: Tensor) -> str:
    quality = psnr(vae, unseen)
    kept = f"shape kept in {recognised(vae, unseen):.0%}"
    return f"loss {value.item():.4f}, unseen tiles {quality.mean():.2f} dB (least {quality.min():.2f}), {kept}"


def train(
    seed: int,
    steps: int,
    report: Callable[[str], None],
    rate: float = PEAK_RATE,
    start: AutoencoderKLMagi | None = None,
) -> AutoencoderKLMagi:
    """Train a VAE on the combinations that training may see, from scratch or on from `start`.

    `report` gets a line now and then.
    """
    vae = build(seed) if start is None else copy.deepcopy(start).train()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    training, held_out = world.split()
    unseen = draw(held_out, 32, np.random.default_rng(seed + 1))
    opts = optimisers(vae)
    began = time.monotonic()
    step = 0
    for share, count, size in PHASES:
        last = step + round(share * steps)
        while step < last:
            set_rate(opts, rate_at(step / steps, rate))
            windows, corners = crop(draw(training, count, rng, pairs=True), size, rng)
            for tower in (vae.encoder, vae.decoder):
                place(tower, corners * 2, size // _PATCH)
            value = loss(vae, windows)
            value.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            for opt in opts:
                opt.step()
                opt.zero_grad(set_to_none=True)
            for tower in (vae.encoder, vae.decoder):  # sees whole tiles again
                del tower.positions
            step += 1
            if step % 100 == 0:
                report(f"vae step {step}/{steps}, {time.monotonic() - began:.0f} s: {_told(vae, value, unseen)}")
    normalise_latents(vae, draw(training, 512, rng))
    return vae.eval()
