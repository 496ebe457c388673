"""Train the VAE of the Wan 2.1 demo checkpoint: clips of the synthetic world to latents 16 x 3 x 8 x 8 and back."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanResidualBlock,
    WanRMS_norm,
    patchify,
    unpatchify,
)
from torch import Tensor

from export.demo import world
from export.demo.optimise import optimisers, rate_at, set_rate
from export.demo.world import Combination

# The residual layout (that of Wan 2.2) of the class that Wan 2.1 uses, with Wan 2.1's compression of 8 x 8 x 4 and 16
# channels. Wan 2.1's own layout has no shortcut round its samplers that carries the picture through, and learns too
# slowly for minutes on a CPU: after 7 minutes side by side, with the same optimiser and 0.95 M parameters each, it gave
# 22.4 dB and this one 29.7 dB.
CONFIG = {
    "base_dim": 16,
    "dim_mult": [1, 2, 2],
    "temperal_downsample": [True, True],
    "z_dim": 16,
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 8,
}
STEPS = 2000
PEAK_RATE = 3e-3
# (share of the steps, clips per batch, frames, height = width): crops round the object first, whole clips last.
PHASES = ((0.55, 8, 5, 32), (0.33, 8, world.FRAMES, 32), (0.12, 4, world.FRAMES, world.SIZE))
_LOG_VARIANCE = -5.0  # of the latents at the start: little noise, so that the picture comes first


def build(seed: int) -> AutoencoderKLWan:
    """A fresh VAE whose residual branches start small, so that the shortcuts carry the picture from the first step."""
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(**CONFIG)
    with torch.no_grad():
        for module in vae.modules():
            if isinstance(module, WanResidualBlock):
                module.conv2.weight.mul_(0.1)
            elif isinstance(module, WanAttentionBlock):
                module.proj.weight.mul_(0.1)
        vae.quant_conv.weight[vae.z_dim :].mul_(0.1)
        vae.quant_conv.bias[vae.z_dim :].fill_(_LOG_VARIANCE)
        for weight in vae.parameters():
            # oneDNN's convolutions are a fifth faster with the channels last.
            if weight.ndim == 5:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    return vae


def encode(vae: AutoencoderKLWan, clips: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance [B, 16, 1 + (F - 1) / 4, H / 8, W / 8] of clips [B, 3, F, H, W] in -1..1.

    `vae.encode` feeds frames 1 + 4 + 4 through its cache; the network is causal, so 1 + 8 gives the same, faster.
    """
    vae.clear_cache()
    parts = []
    for part in patchify(clips, vae.config.patch_size).split([1, clips.shape[2] - 1], dim=2):
        if part.shape[2]:
            vae._enc_conv_idx = [0]
            parts.append(vae.encoder(part, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))
    mean, log_variance = vae.quant_conv(torch.cat(parts, dim=2)).chunk(2, dim=1)
    return mean, log_variance


def decode(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Clips [B, 3, F, H, W], not clamped, of latents; in two parts, as in `encode`."""
    vae.clear_cache()
    parts = []
    for index, part in enumerate(vae.post_quant_conv(latents).split([1, latents.shape[2] - 1], dim=2)):
        if part.shape[2]:
            vae._conv_idx = [0]
            parts.append(vae.decoder(part, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=index == 0))
    return unpatchify(torch.cat(parts, dim=2), vae.config.patch_size)


def draw(combinations: list[Combination], count: int, rng: np.random.Generator) -> Tensor:
    """Render `count` clips of random combinations: fp32 [count, 3, FRAMES, SIZE, SIZE] in -1..1."""
    chosen = rng.integers(len(combinations), size=count)
    clips = np.stack([world.render(combinations[index], rng) for index in chosen])
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3) * 2 - 1


def crop(clips: Tensor, frames: int, size: int, rng: np.random.Generator) -> Tensor:
    """From each clip [B, 3, F, H, W] cut `frames` frames and a window of `size` pixels that touches the object."""
    cut = []
    for clip in clips:
        first = int(rng.integers(clip.shape[1] - frames + 1))
        window = clip[:, first : first + frames]
        differs = (window - window[:, :, :1, :1]).abs().sum(dim=0).amax(dim=0) > 0.4
        corner = []
        for axis in (1, 0):  # rows, then columns
            place = differs.any(dim=axis).nonzero()
            centre = rng.integers(int(place.min()) - 4, int(place.max()) + 5)
            corner.append(int(np.clip(centre - size // 2, 0, clip.shape[-1] - size)))
        cut.append(window[:, :, corner[0] : corner[0] + size, corner[1] : corner[1] + size])
    return torch.stack(cut)


def loss(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """Reconstruction (absolute, squared, and of the edges, which make the shape) and a little KL divergence."""
    mean, log_variance = encode(vae, clips)
    log_variance = log_variance.clamp(-12, 4)
    latents = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    error = decode(vae, latents) - clips
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * edges + 1e-4 * divergence


@torch.no_grad()
def psnr(vae: AutoencoderKLWan, clips: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each clip [B, 3, F, H, W] after encoding to the mean and decoding: [B]."""
    rebuilt = vae.decode(vae.encode(clips).latent_dist.mode()).sample
    return -10 * torch.log10(((rebuilt - clips) / 2).square().mean(dim=(1, 2, 3, 4)))


@torch.no_grad()
def measure_latents(vae: AutoencoderKLWan, clips: Tensor) -> None:
    """Write mean and deviation of each latent channel into the VAE's config, by which pipelines normalise."""
    latents = torch.cat([encode(vae, part)[0] for part in clips.split(16)])
    vae.register_to_config(
        latents_mean=[round(value, 4) for value in latents.mean(dim=(0, 2, 3, 4)).tolist()],
        latents_std=[round(value, 4) for value in latents.std(dim=(0, 2, 3, 4)).tolist()],
    )


def fast_norm(norm: WanRMS_norm, x: Tensor) -> Tensor:
    """`WanRMS_norm.forward` in fewer passes over memory, for training; equal up to rounding."""
    return x * (x.square().sum(dim=1, keepdim=True) + 1e-24).rsqrt() * norm.scale * norm.gamma


def train(seed: int, steps: int, report: Callable[[str], None]) -> AutoencoderKLWan:
    """Train a VAE from scratch on the combinations that training may see; `report` gets a line now and then."""
    vae = build(seed)
    for module in vae.modules():
        if isinstance(module, WanRMS_norm):
            module.forward = fast_norm.__get__(module)
    rng = np.random.default_rng(seed)
    training, held_out = world.split()
    unseen = draw(held_out, 16, np.random.default_rng(seed + 1))
    opts = optimisers(vae)
    began = time.monotonic()
    step = 0
    for share, count, frames, size in PHASES:
        last = step + round(share * steps)
        while step < last:
            set_rate(opts, rate_at(step / steps, PEAK_RATE))
            value = loss(vae, crop(draw(training, count, rng), frames, size, rng))
            value.backward()
            torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
            for opt in opts:
                opt.step()
                opt.zero_grad(set_to_none=True)
            step += 1
            if step % 100 == 0:
                quality = psnr(vae, unseen)
                report(
                    f"vae step {step}/{steps}, {time.monotonic() - began:.0f} s: loss {value.item():.4f}, "
                    f"unseen clips {quality.mean():.2f} dB (least {quality.min():.2f})"
                )
    for module in vae.modules():
        if isinstance(module, WanRMS_norm):
            del module.forward
    for weight in vae.parameters():
        weight.data = weight.data.contiguous()
    measure_latents(vae, draw(training, 512, rng))
    return vae.eval()
